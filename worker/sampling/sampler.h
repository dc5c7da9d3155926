// Sampling state of every slot, and the rows that the Sample op is called with.
//
// A slot's state begins with the SlotState of the row that takes it; where a penalty is set it
// counts the tokens that the slot draws. The last token of a slot lies in device memory, for the
// next step's Embed. Noise is a function of (seed, choice, position, vocabulary id): nothing here
// remembers a draw.
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

  // [num_slots], i32, in device memory: what each slot drew last.
  kernels::ConstTensorView last_tokens() const { return LastTokens(); }

  struct Draw {
    int32_t slot = 0;
    int32_t logits_row = 0;
    int64_t position = 0;  // Of the token to draw.
    std::span<const uint32_t> mask;
  };

  // Enqueues the draws of one step.
  void Sample(const kernels::ConstTensorView& logits, std::span<const Draw> draws);

  // Whether the slots must be told what was drawn, by Count, before they draw again.
  bool Counts(std::span<const Draw> draws) const;
  void Count(std::span<const Draw> draws, std::span<const kernels::SampledToken> tokens);

 private:
  struct Slot {
    SamplingParams params;
    int64_t prompt_tokens = 0;
    std::vector<kernels::SampleRow::Seen> seen;  // Kept only if a penalty is set.
    std::unordered_map<int32_t, size_t> seen_index;
    std::vector<kernels::SampleRow::Bias> bias;
  };

  static void CountToken(Slot& slot, int32_t id, bool generated);
  kernels::SampleRow RowFor(const Draw& draw) const;

  kernels::TensorView LastTokens() const {
    return kernels::TensorView(last_tokens_.data(), kernels::DType::kI32, {std::ssize(slots_)});
  }

  kernels::Backend& backend_;
  std::vector<Slot> slots_;
  kernels::Buffer last_tokens_;
};

}  // namespace facet::worker
