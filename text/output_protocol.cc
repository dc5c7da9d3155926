#include "text/output_protocol.h"

#include <string_view>
#include <utility>

namespace facet {
namespace {

constexpr std::string_view kThoughtName = "thought\n";

template <typename Delta>
void AddDelta(std::string text, std::vector<OutputEvent>& events) {
  if (text.empty()) return;
  if (!events.empty() && std::holds_alternative<Delta>(events.back())) {
    std::get<Delta>(events.back()).text += text;
  } else {
    events.emplace_back(Delta{std::move(text)});
  }
}

// A call that cannot be read, as ordinary text.
std::string TextOf(const ToolCallBody& body) {
  std::string text = body.text;
  for (auto quote = body.quotes.rbegin(); quote != body.quotes.rend(); ++quote) {
    text.insert(*quote, 1, '"');
  }
  return text;
}

}  // namespace

OutputProtocol::OutputProtocol(const Tokenizer& tokenizer)
    : tokenizer_(&tokenizer), detokenizer_(tokenizer, SpecialTokens::kSkip) {
  static constexpr std::pair<std::string_view, Marker> kMarkers[] = {
      {"<|channel>", Marker::kOpenChannel},
      {"<channel|>", Marker::kCloseChannel},
      {"<|tool_call>", Marker::kOpenCall},
      {"<tool_call|>", Marker::kCloseCall},
      {"<|tool_response>", Marker::kOpenResponse},
      {"<tool_response|>", Marker::kCloseResponse},
      {"<|\"|>", Marker::kQuote},
      {"<|turn>", Marker::kTurn},
      {"<turn|>", Marker::kTurn},
      {"<eos>", Marker::kTurn},
      {"<|tool>", Marker::kOther},
      {"<tool|>", Marker::kOther},
      {"<|think|>", Marker::kOther},
  };
  for (const auto& [piece, marker] : kMarkers) {
    if (const std::optional<int32_t> id = tokenizer.IdOf(piece)) markers_.emplace_back(*id, marker);
  }
}

OutputProtocol::Marker OutputProtocol::MarkerOf(int32_t id) const {
  for (const auto& [marker_id, marker] : markers_) {
    if (marker_id == id) return marker;
  }
  return tokenizer_->IsSpecial(id) ? Marker::kOther : Marker::kNone;
}

void OutputProtocol::StartAfter(std::span<const int32_t> prompt_ids) {
  // Backwards to the marker that opened what is open at the end: the channel if one is, else a
  // call.
  size_t start = prompt_ids.size();
  bool call_is_closed = false;
  for (size_t i = prompt_ids.size(); i-- > 0;) {
    const Marker marker = MarkerOf(prompt_ids[i]);
    if (marker == Marker::kTurn || marker == Marker::kCloseChannel) break;
    if (marker == Marker::kCloseCall || marker == Marker::kOpenResponse) call_is_closed = true;
    if (marker == Marker::kOpenCall && !call_is_closed) {
      start = i;
      call_is_closed = true;  // Calls before this one ended here at the latest.
    }
    if (marker == Marker::kOpenChannel) {
      start = i;
      break;
    }
  }
  Append(prompt_ids.subspan(start));
}

std::vector<OutputEvent> OutputProtocol::Append(std::span<const int32_t> ids) {
  std::vector<OutputEvent> events;
  for (const int32_t id : ids) AppendOne(id, events);
  return events;
}

void OutputProtocol::AppendOne(int32_t id, std::vector<OutputEvent>& events) {
  const Marker marker = MarkerOf(id);
  if (marker == Marker::kNone) return AppendText(detokenizer_.Append(id), events);
  AppendText(detokenizer_.Finish(), events);  // No character spans a marker.
  switch (marker) {
    case Marker::kOpenChannel:
      EndCall(events);
      CloseChannel();
      in_channel_ = true;
      break;
    case Marker::kCloseChannel:
      EndCall(events);
      CloseChannel();
      break;
    case Marker::kOpenCall:
      EndCall(events);
      in_call_ = true;
      break;
    case Marker::kCloseCall:
    case Marker::kOpenResponse:
      EndCall(events);
      break;
    case Marker::kQuote:
      if (in_call_) call_.quotes.push_back(call_.text.size());
      break;
    case Marker::kTurn:
      EndCall(events);
      CloseChannel();
      break;
    case Marker::kCloseResponse:
    case Marker::kOther:
    case Marker::kNone:
      break;
  }
}

void OutputProtocol::AppendText(std::string text, std::vector<OutputEvent>& events) {
  if (in_call_) {
    call_.text += text;
  } else if (in_channel_) {
    AppendThought(std::move(text), events);
  } else {
    AddDelta<TextDelta>(std::move(text), events);
  }
}

// The template writes "thought\n" before a thought and "\n" after it; both belong to the format.
void OutputProtocol::AppendThought(std::string text, std::vector<OutputEvent>& events) {
  if (text.empty()) return;
  if (!named_) {
    name_ += text;
    if (kThoughtName.starts_with(name_) && name_ != kThoughtName) return;  // More may follow.
    named_ = true;
    text = name_.substr(name_.starts_with(kThoughtName) ? kThoughtName.size() : 0);
    if (text.empty()) return;
  }
  if (held_newline_) text.insert(0, 1, '\n');
  held_newline_ = text.ends_with('\n');
  if (held_newline_) text.pop_back();
  AddDelta<ThoughtDelta>(std::move(text), events);
}

void OutputProtocol::CloseChannel() {
  in_channel_ = false;
  named_ = false;
  name_.clear();
  held_newline_ = false;
}

void OutputProtocol::EndCall(std::vector<OutputEvent>& events) {
  if (!in_call_) return;
  in_call_ = false;
  const ToolCallBody body = std::exchange(call_, ToolCallBody());
  if (std::optional<ToolCall> call = ParseToolCall(body)) {
    events.emplace_back(*std::move(call));
  } else {
    AddDelta<TextDelta>(TextOf(body), events);
  }
}

std::vector<OutputEvent> OutputProtocol::Finish() {
  std::vector<OutputEvent> events;
  AppendText(detokenizer_.Finish(), events);
  EndCall(events);
  CloseChannel();
  return events;
}

}  // namespace facet
