// Experts beside the dense path: from attention's output in state.branch to the end of the layer.
#pragma once

#include "kernels/backend.h"
#include "worker/model/gemma4_config.h"
#include "worker/model/step_state.h"
#include "worker/model/weights.h"

namespace facet::worker {

void Moe(kernels::Backend& backend,
         const Gemma4Config& config,
         const LayerShape& shape,
         const LayerWeights& weights,
         StepState& state);

}  // namespace facet::worker
