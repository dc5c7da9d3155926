// The dense feed-forward of one layer, into state.branch; where nothing follows it (neither experts
// nor per-layer embeddings) it also ends the layer.
#pragma once

#include "kernels/backend.h"
#include "worker/model/gemma4_config.h"
#include "worker/model/step_state.h"
#include "worker/model/weights.h"

namespace facet::worker {

void Mlp(kernels::Backend& backend,
         const Gemma4Config& config,
         const LayerShape& shape,
         const LayerWeights& weights,
         StepState& state);

}  // namespace facet::worker
