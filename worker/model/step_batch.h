// What one engine step feeds the model: plain values that one can print and build in a test.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/status.h"
#include "worker/sampling/sampling_params.h"

namespace facet::worker {

enum class LogitsWanted { kNone, kLast, kAll };

// The part of a sequence's block table that this step reads or writes, for one geometry:
// blocks[i] holds positions [16 (first_block + i), 16 (first_block + i + 1)).
struct BlockTable {
  int32_t first_block = 0;
  std::vector<int32_t> blocks;
};

// What the sampler must know of a slot from now on; sent when a sequence takes the slot.
struct SlotState {
  SamplingParams sampling;
  // All tokens of the sequence so far, prompt first; needed only if a penalty is set.
  std::vector<int32_t> history;
  int32_t prompt_tokens = 0;
};

// One sequence's tokens in this step.
struct BatchRow {
  int32_t slot = 0;            // Stable while the sequence runs; in [0, running_max).
  int64_t first_position = 0;  // Of its first token in this step.
  int32_t first_token = 0;     // Place of its ids in StepBatch::token_ids.
  int32_t num_tokens = 0;      // ≥ 1
  // The one token is this slot's last sample, which the host may not have seen yet; its place in
  // token_ids is then ignored.
  bool token_is_last_sample = false;
  LogitsWanted logits = LogitsWanted::kLast;
  bool sample = true;                // Draw the next token from the last position's logits.
  bool awaits_mask = false;          // Sampling waits for Executor::ProvideMask.
  std::array<BlockTable, 2> tables;  // By KvGeometry.
  std::optional<SlotState> slot_state;
  uint64_t history_hash = 0;  // Of all tokens before the next one; used by the calibrated double.
};

struct StepBatch {
  std::vector<int32_t> token_ids;
  std::vector<BatchRow> rows;
  // What the step's sequences are to pay for it, against those of other ranks.
  int64_t weight = 0;
  bool return_logits = false;  // Copy the wanted logits into the result (tools and tests).
  bool return_expert_choices = false;

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
};

struct RowResult {
  int32_t token = -1;  // The sampled token; -1 if none was asked for or the logits were bad.
  bool finite = true;  // All logits of the row were finite.
  float logprob = 0;   // Of token, from the raw soft-capped logits, if asked for.
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

struct StepResult {
  Status status;                // Else nothing was computed that may be used: a rank failed.
  std::vector<RowResult> rows;  // In the order of StepBatch::rows.
  int64_t device_ns = 0;
  // Of a step that ranks shared: how many, and the weight that they brought together. 0: none did.
  int32_t num_ranks = 0;
  int64_t group_weight = 0;
  std::vector<float> logits;  // [wanted positions in row order, vocab], with return_logits.
  // With return_expert_choices: how often tokens of this worker chose each expert, over all layers
  // and steps so far. Empty for models without experts and for a model that no ranks share.
  std::vector<int64_t> expert_choices;
};

}  // namespace facet::worker
