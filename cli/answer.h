// One answer as its stream arrives: what generate prints as JSON and chat keeps for the next turn.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "facet/v1/inference.pb.h"

namespace CLI {
class App;
}

namespace facet {

class Answer {
 public:
  void Add(const v1::ChatResponse& event);
  void Add(const v1::GenerateResponse& event);

  const std::string& text() const { return text_; }

  const std::string& thought() const { return thought_; }

  // Of all deltas, thoughts and trailing stop tokens included, in order.
  const std::vector<int32_t>& token_ids() const { return token_ids_; }

  const v1::Usage& usage() const { return finished_.usage(); }

  // {"model", "text", "token_ids", "finish_reason", "usage", "timing", …}
  std::string Json() const;

  // "TTFT 12 ms · 85.1 tok/s · 24 + 31 tokens · $0.0000012"
  std::string Summary() const;

 private:
  void AddTokens(const google::protobuf::RepeatedField<int32_t>& ids);

  v1::Accepted accepted_;
  v1::Finished finished_;
  std::string text_;
  std::string thought_;
  std::vector<int32_t> token_ids_;
  std::vector<v1::ToolCall> tool_calls_;
};

// "stop", "length", "tool_calls".
std::string FinishReasonName(v1::FinishReason reason);

// What chat and generate let the user say about sampling; absent means the model's default.
struct SamplingFlags {
  std::optional<int32_t> max_tokens;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int32_t> top_k;
  std::optional<uint64_t> seed;

  void AddTo(CLI::App& command);
  v1::Sampling Sampling() const;
  v1::Limits Limits() const;
};

}  // namespace facet
