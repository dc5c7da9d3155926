// Generated token ids to what they mean: thoughts, text and tool calls.
//
//   text ──<|channel>──▶ thought ──<channel|>──▶ text      "thought\n" at its start is its name
//   text or thought ──<|tool_call>──▶ call ──<tool_call|>──▶ back
//
// Goes by token id, never by text, so a marker cannot leak into text and text cannot forge a
// marker. Lenient where models are not strict: a call also ends at the next call, at
// <|tool_response>, at the end of the turn and of the output; a marker out of place means nothing;
// a call may stand inside a thought. With a tokenizer that has no such markers everything is text.
//
// The same ids give the same events, whatever came of them before: a resumed request replays its
// committed tokens. One object per output, one thread at a time; the tokenizer must outlive it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/tool_call_parser.h"

namespace facet {

struct ThoughtDelta {
  std::string text;
};

struct TextDelta {
  std::string text;
};

// Deltas are whole UTF-8 characters and never empty; a call comes once it has ended.
using OutputEvent = std::variant<ThoughtDelta, TextDelta, ToolCall>;

class OutputProtocol {
 public:
  explicit OutputProtocol(const Tokenizer& tokenizer);

  // Takes up where a prompt ends: in a thought, if its last channel is still open (the generation
  // prompt after a tool's result, with thinking on), or in a call. To be called before Append.
  void StartAfter(std::span<const int32_t> prompt_ids);

  // What the next ids of the output add, in order; neighbours of one kind are joined.
  std::vector<OutputEvent> Append(std::span<const int32_t> ids);

  std::vector<OutputEvent> Append(int32_t id) { return Append(std::span(&id, 1)); }

  // What is left when the output is over: a cut character as U+FFFD, a call that was not closed.
  std::vector<OutputEvent> Finish();

  bool in_thought() const { return in_channel_ && !in_call_; }

 private:
  enum class Marker {
    kNone,
    kOpenChannel,
    kCloseChannel,
    kOpenCall,
    kCloseCall,
    kOpenResponse,
    kCloseResponse,
    kQuote,
    kTurn,   // <|turn>, <turn|>, <eos>: nothing stays open over it.
    kOther,  // Special, and of no meaning here.
  };

  Marker MarkerOf(int32_t id) const;
  void AppendOne(int32_t id, std::vector<OutputEvent>& events);
  void AppendText(std::string text, std::vector<OutputEvent>& events);
  void AppendThought(std::string text, std::vector<OutputEvent>& events);
  void CloseChannel();
  void EndCall(std::vector<OutputEvent>& events);

  const Tokenizer* tokenizer_;
  Detokenizer detokenizer_;
  std::vector<std::pair<int32_t, Marker>> markers_;  // The few ids that are one.

  bool in_channel_ = false;
  bool named_ = false;         // The channel's name has been read; until then it is in name_.
  std::string name_;           // A beginning of "thought\n".
  bool held_newline_ = false;  // The thought's last character: dropped if the thought ends here.
  bool in_call_ = false;       // May be inside a channel.
  ToolCallBody call_;
};

}  // namespace facet
