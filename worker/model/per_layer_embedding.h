// Per-layer embeddings of E2B and E4B: their inputs once per step, their injection at each layer's
// end.
#pragma once

#include "kernels/backend.h"
#include "worker/model/gemma4_config.h"
#include "worker/model/step_state.h"
#include "worker/model/weights.h"

namespace facet::worker {

// Fills state.ple from the ids and the embedded hidden states.
void PerLayerInputs(kernels::Backend& backend,
                    const Gemma4Config& config,
                    const Gemma4Weights& weights,
                    const kernels::ConstTensorView& ids,
                    StepState& state);

// Adds layer i's part to the residual stream and ends the layer.
void InjectPerLayerInput(kernels::Backend& backend,
                         const Gemma4Config& config,
                         int32_t i,
                         const LayerWeights& weights,
                         StepState& state);

}  // namespace facet::worker
