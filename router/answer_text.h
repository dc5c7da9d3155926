// Committed tokens of one request to the events its client gets: typed text by the output protocol
// of chats, or plain text of a continued prompt; stop strings never leave.
//
// Every token id is in exactly one event, in order: text lags behind ids by an unfinished
// character, a marker or a possible stop string. Owned by the request in its relay shard.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "facet/worker/v1/worker.pb.h"
#include "router/answer_stream.h"
#include "router/served_model.h"
#include "text/detokenizer.h"
#include "text/output_protocol.h"
#include "text/stop_matcher.h"

namespace facet::router {

class AnswerText {
 public:
  // A chat's answer has thoughts, text and tool calls; a continued prompt has text alone.
  enum class Kind { kChat, kContinuation };

  struct Options {
    Kind kind = Kind::kChat;
    std::string call_id_prefix;     // Of the ids of tool calls.
    std::vector<std::string> stop;  // Stop strings end the answer's text; thoughts may have them.
  };

  // The model must outlive it; prompt_ids are only read here.
  AnswerText(const ServedModel& model, std::span<const int32_t> prompt_ids, Options options);

  // Takes one token and appends the events it completes. True if its text completed a stop string:
  // the answer ends there, and nothing may be appended any more.
  bool Append(int32_t id,
              const worker::v1::TokenLogprob* logprob,
              std::vector<AnswerEvent>& events);

  // Appends an event for ids that no event carries yet, so that clients see every token at once.
  void FlushIds(std::vector<AnswerEvent>& events);

  // The answer is over: appends what was held back. The ids left go to the last message.
  void Finish(std::vector<AnswerEvent>& events);

  const std::vector<int32_t>& trailing_ids() const { return unsent_ids_; }

  int32_t thinking_tokens() const { return thinking_tokens_; }

  bool called_tools() const { return num_calls_ > 0; }

 private:
  void Add(OutputEvent event, std::vector<AnswerEvent>& events);
  void AddText(std::string_view text, std::vector<AnswerEvent>& events);
  void AddCall(const ToolCall& call, std::vector<AnswerEvent>& events);
  void FillDelta(std::string text, v1::TextDelta& delta);

  std::string call_id_prefix_;
  // One of the two, or none without a tokenizer: then there are only ids.
  std::optional<OutputProtocol> protocol_;
  std::optional<Detokenizer> detokenizer_;
  StopMatcher stop_;
  std::vector<int32_t> unsent_ids_;
  std::vector<v1::TokenLogprob> unsent_logprobs_;
  int32_t num_sent_ = 0;
  int32_t thinking_tokens_ = 0;
  int32_t num_calls_ = 0;
};

}  // namespace facet::router
