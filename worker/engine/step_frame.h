// What leaves the engine: for each session one frame per step with the new tokens of its requests.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/engine/charge.h"
#include "worker/engine/sequence.h"
#include "worker/model/step_batch.h"

namespace facet::worker {

// Running totals since a session began: it may have sent at most so many, and so many have arrived.
struct Credits {
  uint64_t sequences = 0;
  uint64_t prefill_tokens = 0;
  uint64_t sequences_received = 0;
  uint64_t prefill_tokens_received = 0;
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

// All that one attempt at a request has cost, once nothing more can be charged to it. A sequence
// has one, however it ends: Σ over settled and open accounts = the totals of their tenants.
struct SettledAccount {
  uint64_t session_id = 0;  // Who asked; may be over.
  std::string request_id;
  uint32_t epoch = 0;
  std::string tenant;
  FinishReason finish = FinishReason::kNone;
  int32_t num_prompt_tokens = 0;
  int32_t num_output_tokens = 0;  // Drawn by this attempt.
  Spent prefill;
  Spent decode;
  std::map<std::string, int64_t> wasted_ns;  // By reason; part of the two times.
  int64_t start_unix_ns = 0;                 // It came to the engine.
  int64_t first_token_unix_ns = 0;           // 0: none was drawn. End of the step that drew it.
  int64_t last_token_unix_ns = 0;
  int64_t end_unix_ns = 0;  // Of the last step that it was charged for, or its end without one.
};

// Who takes what the engine publishes. Called on the engine thread; must not block.
class EngineSink {
 public:
  virtual ~EngineSink() = default;
  virtual void OnStepFrame(StepFrame frame) = 0;
  virtual void OnRefusal(Refusal refusal) = 0;
  // After the last frame with a charge of this request.
  virtual void OnSettled(SettledAccount account) = 0;
  // All sequences of all sessions are lost; the sessions are over.
  virtual void OnLost(const Status& cause) = 0;
};

}  // namespace facet::worker
