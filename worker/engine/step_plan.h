// What one step was decided to be: which sequences, how many tokens each.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "worker/engine/sequence.h"

namespace facet::worker {

struct PlannedChunk {
  Sequence* sequence = nullptr;
  int32_t first = 0;       // First token to compute.
  int32_t num_tokens = 0;  // ≥ 1
  bool samples = false;    // The chunk reaches the sequence's end: the step draws its next token.
  int32_t num_recomputed = 0;  // Of these tokens: computed before and lost by preemption.
  int32_t num_replayed = 0;    // Of the others: computed by an earlier epoch, on another worker.
};

class StepPlan {
 public:
  explicit StepPlan(int32_t step_tokens_max) : tokens_left_(step_tokens_max) {}

  void Add(const PlannedChunk& chunk) {
    FACET_CHECK(chunk.num_tokens >= 1 && chunk.num_tokens <= tokens_left_);
    tokens_left_ -= chunk.num_tokens;
    num_tokens_ += chunk.num_tokens;
    chunks_.push_back(chunk);
  }

  const std::vector<PlannedChunk>& chunks() const { return chunks_; }

  bool empty() const { return chunks_.empty(); }

  int32_t num_tokens() const { return num_tokens_; }

  int32_t tokens_left() const { return tokens_left_; }

 private:
  std::vector<PlannedChunk> chunks_;
  int32_t tokens_left_;
  int32_t num_tokens_ = 0;
};

}  // namespace facet::worker
