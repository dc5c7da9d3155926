#include "worker/model/moe.h"

namespace facet::worker {

using kernels::DType;
using kernels::TensorView;

void Moe(kernels::Backend& backend,
         const Gemma4Config& config,
         const LayerShape& shape,
         const LayerWeights& weights,
         StepState& state) {
  const StepBuffers& buffers = state.buffers;
  const int64_t tokens = state.num_tokens;
  const int64_t top_k = config.top_k_experts;
  const TensorView dense_in = state.View(buffers.dense_in, config.hidden);
  const TensorView expert_in = state.View(buffers.expert_in, config.hidden);
  const TensorView topk_ids(buffers.topk_ids.data(), DType::kI32, {tokens, top_k});
  const TensorView topk_weights(buffers.topk_weights.data(), DType::kF32, {tokens, top_k});
  const TensorView expert_act(buffers.expert_act.data(), buffers.dtype,
                              {tokens, top_k, config.expert_intermediate});
  const TensorView expert_out(buffers.expert_out.data(), buffers.dtype,
                              {tokens, top_k, config.hidden});
  const TensorView dense_act = state.View(buffers.act, shape.intermediate);

  backend.NormRouterTopK({.hidden = state.hidden,
                          .attention_out = state.branch,
                          .post_attention_norm = weights.post_attention_norm.view,
                          .pre_norm = weights.pre_feedforward_norm.view,
                          .pre_norm_2 = weights.pre_feedforward_norm_2.view,
                          .router_scale = weights.router_scale.view,
                          .router = weights.router,
                          .per_expert_scale = weights.per_expert_scale.view,
                          .eps = config.eps,
                          .dense_in = dense_in,
                          .expert_in = expert_in,
                          .topk_ids = topk_ids,
                          .topk_weights = topk_weights});
  backend.MoeUp({.expert_in = expert_in,
                 .dense_in = dense_in,
                 .topk_ids = topk_ids,
                 .experts = weights.experts,
                 .dense_gate = weights.gate,
                 .dense_up = weights.up,
                 .act = expert_act,
                 .dense_act = dense_act});
  backend.MoeDown({.act = expert_act,
                   .dense_act = dense_act,
                   .topk_ids = topk_ids,
                   .experts = weights.experts,
                   .dense_down = weights.down,
                   .out = expert_out,
                   .dense_out = state.branch});
  backend.MoeCombine({.hidden = state.hidden,
                      .out = expert_out,
                      .dense_out = state.branch,
                      .topk_ids = topk_ids,
                      .topk_weights = topk_weights,
                      .num_experts = config.num_experts,
                      .post_norm_1 = weights.post_feedforward_norm_1.view,
                      .post_norm_2 = weights.post_feedforward_norm_2.view,
                      .post_norm = weights.post_feedforward_norm.view,
                      .layer_scalar = weights.layer_scalar,
                      .eps = config.eps});
}

}  // namespace facet::worker
