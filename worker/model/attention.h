// Attention of one layer: norm, projections, paged attention, output projection into state.branch.
#pragma once

#include "kernels/backend.h"
#include "worker/kv/kv_cache.h"
#include "worker/model/gemma4_config.h"
#include "worker/model/step_state.h"
#include "worker/model/weights.h"

namespace facet::worker {

struct AttentionInput {
  const Gemma4Config& config;
  const LayerShape& shape;
  const LayerWeights& weights;
  kernels::ConstTensorView inv_freq;  // Of this kind of layer.
  kernels::KvLayerView kv;            // Its own part of the cache, or its donor's.
};

void Attention(kernels::Backend& backend, const AttentionInput& input, StepState& state);

}  // namespace facet::worker
