// Sampling state of every slot, and the rows that the Sample op is called with.
//
// A slot's state begins with the SlotState of the row that takes it and follows the tokens it
// draws. Noise is a function of (seed, choice, position, vocabulary id): nothing here remembers a
// draw.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "kernels/backend.h"
#include "worker/model/step_batch.h"

namespace facet::worker {

class Sampler {
 public:
  Sampler(kernels::Backend& backend, int32_t num_slots);

  void SetSlot(int32_t slot, const SlotState& state);

  // The token a slot drew last.
  int32_t last_token(int32_t slot) const { return slots_[slot].last_token; }

  struct Draw {
    int32_t slot = 0;
    int32_t logits_row = 0;
    int64_t position = 0;  // Of the token to draw.
    std::span<const uint32_t> mask;
  };

  // Draws for each; the slots' counts and last tokens move on.
  std::vector<kernels::SampledToken> Sample(const kernels::ConstTensorView& logits,
                                            std::span<const Draw> draws);

 private:
  struct Slot {
    SamplingParams params;
    int64_t prompt_tokens = 0;
    int32_t last_token = -1;
    std::vector<kernels::SampleRow::Seen> seen;  // Kept only if a penalty is set.
    std::unordered_map<int32_t, size_t> seen_index;
    std::vector<kernels::SampleRow::Bias> bias;
  };

  static void CountToken(Slot& slot, int32_t id, bool generated);
  kernels::SampleRow RowFor(const Draw& draw) const;

  kernels::Backend& backend_;
  std::vector<Slot> slots_;
};

}  // namespace facet::worker
