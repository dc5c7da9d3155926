#include "worker/sampling/sampler.h"

#include <algorithm>

namespace facet::worker {

using kernels::SampledToken;
using kernels::SampleRow;

Sampler::Sampler(kernels::Backend& backend, int32_t num_slots)
    : backend_(backend),
      slots_(num_slots),
      last_tokens_(backend.Allocate(num_slots * kernels::SizeOf(kernels::DType::kI32))) {}

void Sampler::SetSlot(int32_t slot_id, const SlotState& state) {
  Slot slot;
  slot.params = state.sampling;
  slot.prompt_tokens = state.prompt_tokens;
  for (const auto& [id, value] : state.sampling.logit_bias) slot.bias.push_back({id, value});
  if (state.sampling.HasPenalty()) {
    for (size_t i = 0; i < state.history.size(); ++i) {
      CountToken(slot, state.history[i], static_cast<int64_t>(i) >= state.prompt_tokens);
    }
  }
  slots_[slot_id] = std::move(slot);
}

void Sampler::Sample(const kernels::ConstTensorView& logits, std::span<const Draw> draws) {
  std::vector<SampleRow> rows;
  for (const Draw& draw : draws) rows.push_back(RowFor(draw));
  backend_.Sample({.logits = logits, .rows = rows, .last_tokens = LastTokens()});
}

bool Sampler::Counts(std::span<const Draw> draws) const {
  return std::any_of(draws.begin(), draws.end(),
                     [this](const Draw& draw) { return slots_[draw.slot].params.HasPenalty(); });
}

void Sampler::Count(std::span<const Draw> draws, std::span<const SampledToken> tokens) {
  for (size_t i = 0; i < draws.size(); ++i) {
    Slot& slot = slots_[draws[i].slot];
    if (tokens[i].finite && slot.params.HasPenalty()) {
      CountToken(slot, tokens[i].id, /*generated=*/true);
    }
  }
}

void Sampler::CountToken(Slot& slot, int32_t id, bool generated) {
  const auto [it, is_new] = slot.seen_index.try_emplace(id, slot.seen.size());
  if (is_new) slot.seen.push_back({.id = id});
  if (generated) ++slot.seen[it->second].num_generated;
}

SampleRow Sampler::RowFor(const Draw& draw) const {
  const Slot& slot = slots_[draw.slot];
  const SamplingParams& params = slot.params;
  const int64_t num_generated = draw.position - slot.prompt_tokens;
  return {.logits_row = draw.logits_row,
          .seen = slot.seen,
          .presence_penalty = params.presence_penalty,
          .frequency_penalty = params.frequency_penalty,
          .repetition_penalty = params.repetition_penalty,
          .bias = slot.bias,
          .barred = num_generated < params.new_tokens_min
                        ? std::span<const int32_t>(params.barred_before_min)
                        : std::span<const int32_t>(),
          .mask = draw.mask,
          .temperature = params.temperature,
          .min_p = params.min_p,
          .top_k = params.top_k,
          .top_p = params.top_p,
          .seed = params.seed,
          .choice = params.choice,
          .position = draw.position,
          .num_logprobs = params.num_logprobs,
          .slot = draw.slot};
}

}  // namespace facet::worker
