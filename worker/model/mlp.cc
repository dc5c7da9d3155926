#include "worker/model/mlp.h"

namespace facet::worker {

void Mlp(kernels::Backend& backend,
         const Gemma4Config& config,
         const LayerShape& shape,
         const LayerWeights& weights,
         StepState& state) {
  const kernels::TensorView act = state.View(state.buffers.act, shape.intermediate);
  backend.NormGateUp({.hidden = state.hidden,
                      .attention_out = state.branch,
                      .post_attention_norm = weights.post_attention_norm.view,
                      .pre_feedforward_norm = weights.pre_feedforward_norm.view,
                      .eps = config.eps,
                      .gate = weights.gate,
                      .up = weights.up,
                      .act = act});
  const bool ends_layer = !config.has_ple();
  backend.MlpDown({.act = act,
                   .weight = weights.down,
                   .out = state.branch,
                   .finish_hidden = ends_layer ? state.hidden : kernels::TensorView(),
                   .post_feedforward_norm = weights.post_feedforward_norm.view,
                   .layer_scalar = weights.layer_scalar,
                   .eps = config.eps});
}

}  // namespace facet::worker
