#include "worker/model/attention.h"

namespace facet::worker {

void Attention(kernels::Backend& backend, const AttentionInput& input, StepState& state) {
  const LayerShape& shape = input.shape;
  const LayerWeights& weights = input.weights;
  const int64_t q_width = static_cast<int64_t>(input.config.num_q_heads) * shape.head_dim;
  const int64_t kv_width = static_cast<int64_t>(shape.num_kv_heads) * shape.head_dim;
  const int64_t num_kv = shape.shares_kv ? 0 : shape.k_eq_v ? 1 : 2;
  const kernels::TensorView qkv = state.View(state.buffers.qkv, q_width + num_kv * kv_width);
  const kernels::TensorView heads = state.View(state.buffers.attention, q_width);

  backend.NormQkv({.hidden = state.hidden,
                   .norm_weight = weights.input_norm.view,
                   .eps = input.config.eps,
                   .q = &weights.q,
                   .k = weights.k.empty() ? nullptr : &weights.k,
                   .v = weights.v.empty() ? nullptr : &weights.v,
                   .qkv = qkv});
  backend.PagedAttention({.qkv = qkv,
                          .q_norm = weights.q_norm.view,
                          .k_norm = weights.k_norm.view,
                          .inv_freq = input.inv_freq,
                          .eps = input.config.eps,
                          .num_q_heads = input.config.num_q_heads,
                          .num_kv_heads = shape.num_kv_heads,
                          .head_dim = shape.head_dim,
                          .has_kv = !shape.shares_kv,
                          .k_eq_v = shape.k_eq_v,
                          .window = shape.full ? 0 : input.config.window,
                          .batch = shape.full ? state.full_batch : state.sliding_batch,
                          .kv = input.kv,
                          .out = heads});
  backend.OutputProj({.attention = heads, .weight = weights.o, .out = state.branch});
}

}  // namespace facet::worker
