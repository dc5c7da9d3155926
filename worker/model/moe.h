// Experts beside the dense path: from attention's output in state.branch to the end of the layer.
#pragma once

#include "base/status.h"
#include "kernels/backend.h"
#include "worker/model/expert_exchange.h"
#include "worker/model/gemma4_config.h"
#include "worker/model/step_state.h"
#include "worker/model/weights.h"

namespace facet::worker {

// All experts are here.
void Moe(kernels::Backend& backend,
         const Gemma4Config& config,
         const LayerShape& shape,
         const LayerWeights& weights,
         StepState& state);

// Ranks share the experts. This rank's tokens meet those of all ranks, and other ranks' tokens
// those of this one, so that every rank takes part in every layer, with no tokens of its own if
// need be. Bits are those of Moe. Errors are the exchange's.
Status SharedMoe(kernels::Backend& backend,
                 const Gemma4Config& config,
                 const LayerShape& shape,
                 const LayerWeights& weights,
                 ExpertExchange& exchange,
                 StepState& state);

}  // namespace facet::worker
