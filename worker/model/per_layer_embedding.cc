#include "worker/model/per_layer_embedding.h"

#include <cmath>

#include "kernels/misreading.h"

namespace facet::worker {

void PerLayerInputs(kernels::Backend& backend,
                    const Gemma4Config& config,
                    const Gemma4Weights& weights,
                    const kernels::ConstTensorView& ids,
                    StepState& state) {
  const kernels::DType dtype = state.buffers.dtype;
  backend.PleInputs(
      {.ids = ids,
       .table = weights.ple_table.view,
       .hidden = state.hidden,
       .projection = weights.ple_model_projection,
       .norm_weight = weights.ple_projection_norm.view,
       .token_scale = kernels::RoundTo(dtype, std::sqrt(static_cast<float>(config.ple_size))),
       .context_scale = static_cast<float>(std::pow(static_cast<double>(config.hidden), -0.5)),
       .eps = config.eps,
       .ple = state.ple});
}

void InjectPerLayerInput(kernels::Backend& backend,
                         const Gemma4Config& config,
                         int32_t i,
                         const LayerWeights& weights,
                         StepState& state) {
  const bool reversed = kernels::Misread(kernels::Misreading::kPleLayersReversed);
  backend.PleInject({.hidden = state.hidden,
                     .ffn_out = state.branch,
                     .post_feedforward_norm = weights.post_feedforward_norm.view,
                     .gate = weights.ple_gate,
                     .ple = state.ple,
                     .layer = reversed ? config.num_layers - 1 - i : i,
                     .projection = weights.ple_projection,
                     .post_norm = weights.ple_norm.view,
                     .layer_scalar = weights.layer_scalar,
                     .eps = config.eps});
}

}  // namespace facet::worker
