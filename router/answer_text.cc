#include "router/answer_text.h"

#include <google/protobuf/util/json_util.h>

#include <utility>
#include <variant>

namespace facet::router {

AnswerText::AnswerText(const ServedModel& model,
                       std::span<const int32_t> prompt_ids,
                       Options options)
    : call_id_prefix_(std::move(options.call_id_prefix)), stop_(options.stop) {
  if (!model.tokenizer.has_value()) return;
  if (options.kind == Kind::kContinuation) {
    detokenizer_.emplace(*model.tokenizer);
    return;
  }
  protocol_.emplace(*model.tokenizer);
  protocol_->StartAfter(prompt_ids);
}

bool AnswerText::Append(int32_t id,
                        const worker::v1::TokenLogprob* logprob,
                        std::vector<AnswerEvent>& events) {
  unsent_ids_.push_back(id);
  if (logprob != nullptr) {
    v1::TokenLogprob& sent = unsent_logprobs_.emplace_back();
    sent.set_logprob(logprob->logprob());
    for (int i = 0; i < logprob->top_ids_size() && i < logprob->top_logprobs_size(); ++i) {
      v1::TopLogprob& top = *sent.add_top();
      top.set_token_id(logprob->top_ids(i));
      top.set_logprob(logprob->top_logprobs(i));
    }
  }
  if (detokenizer_.has_value()) AddText(detokenizer_->Append(id), events);
  if (protocol_.has_value()) {
    if (protocol_->in_thought()) ++thinking_tokens_;
    for (OutputEvent& event : protocol_->Append(id)) Add(std::move(event), events);
  }
  return stop_.matched().has_value();
}

void AnswerText::FlushIds(std::vector<AnswerEvent>& events) {
  if (unsent_ids_.empty()) return;
  // Inside a thought the empty event is one too, so that neighbours of one kind merge.
  AnswerEvent& event = events.emplace_back();
  const bool in_thought = protocol_.has_value() && protocol_->in_thought();
  FillDelta("", in_thought ? *event.mutable_thought() : *event.mutable_text());
}

void AnswerText::Finish(std::vector<AnswerEvent>& events) {
  if (stop_.matched().has_value()) return;
  if (detokenizer_.has_value()) AddText(detokenizer_->Finish(), events);
  if (protocol_.has_value()) {
    for (OutputEvent& event : protocol_->Finish()) Add(std::move(event), events);
  }
  if (stop_.matched().has_value()) return;
  std::string held = stop_.Finish();
  if (!held.empty()) FillDelta(std::move(held), *events.emplace_back().mutable_text());
}

void AnswerText::Add(OutputEvent event, std::vector<AnswerEvent>& events) {
  if (stop_.matched().has_value()) return;
  if (auto* text = std::get_if<TextDelta>(&event)) {
    AddText(text->text, events);
  } else if (auto* thought = std::get_if<ThoughtDelta>(&event)) {
    FillDelta(std::move(thought->text), *events.emplace_back().mutable_thought());
  } else {
    AddCall(std::get<ToolCall>(event), events);
  }
}

void AnswerText::AddText(std::string_view text, std::vector<AnswerEvent>& events) {
  std::string free = stop_.Append(text);
  if (!free.empty()) FillDelta(std::move(free), *events.emplace_back().mutable_text());
}

void AnswerText::AddCall(const ToolCall& call, std::vector<AnswerEvent>& events) {
  FlushIds(events);  // A call carries no ids.
  v1::ToolCall& sent = *events.emplace_back().mutable_tool_call();
  sent.set_id("call_" + call_id_prefix_ + "_" + std::to_string(num_calls_++));
  sent.set_name(call.name);
  sent.set_arguments_json(call.arguments_json);
  // What a Struct cannot hold stands in the JSON alone.
  if (!google::protobuf::util::JsonStringToMessage(call.arguments_json, sent.mutable_arguments())
           .ok()) {
    sent.clear_arguments();
  }
}

void AnswerText::FillDelta(std::string text, v1::TextDelta& delta) {
  delta.set_text(std::move(text));
  delta.set_first_position(num_sent_);
  num_sent_ += static_cast<int32_t>(unsent_ids_.size());
  delta.mutable_token_ids()->Assign(unsent_ids_.begin(), unsent_ids_.end());
  for (v1::TokenLogprob& logprob : unsent_logprobs_) *delta.add_logprobs() = std::move(logprob);
  unsent_ids_.clear();
  unsent_logprobs_.clear();
}

}  // namespace facet::router
