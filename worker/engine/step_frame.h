// What leaves the engine: for each session one frame per step with the new tokens of its requests.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/engine/sequence.h"
#include "worker/model/step_batch.h"

namespace facet::worker {

// Running totals since a session began: it may have sent at most so many.
struct Credits {
  uint64_t sequences = 0;
  uint64_t prefill_tokens = 0;
};

struct Load {
  int32_t sequences_running = 0;
  int32_t sequences_waiting = 0;
  int64_t prefill_tokens_waiting = 0;
  int64_t kv_bytes_used = 0;
  int64_t kv_bytes_total = 0;
  uint64_t prompt_tokens_total = 0;
  uint64_t output_tokens_total = 0;
  int64_t busy_ns_total = 0;
  int64_t held_ns_total = 0;
  double prefill_tokens_per_second = 0;
  double step_ms_predicted = 0;
};

struct TokenDelta {
  std::string request_id;
  uint32_t epoch = 0;
  int32_t first_position = 0;  // Place of token_ids[0] among the generated tokens.
  std::vector<int32_t> token_ids;
  std::vector<RowResult> logprobs;  // One per token if asked for.
  FinishReason finish = FinishReason::kNone;
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;
  int64_t cost_nano_usd = 0;
};

struct StepFrame {
  uint64_t session_id = 0;
  uint64_t step = 0;
  int64_t step_ns = 0;
  std::vector<TokenDelta> deltas;
  Credits credits;
  Load load;
};

// A submit that did not start.
struct Refusal {
  uint64_t session_id = 0;
  std::string request_id;
  uint32_t epoch = 0;
  Status status;
};

// Who takes what the engine publishes. Called on the engine thread; must not block.
class EngineSink {
 public:
  virtual ~EngineSink() = default;
  virtual void OnStepFrame(StepFrame frame) = 0;
  virtual void OnRefusal(Refusal refusal) = 0;
  // All sequences of all sessions are lost; the sessions are over.
  virtual void OnLost(const Status& cause) = 0;
};

}  // namespace facet::worker
