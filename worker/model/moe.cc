#include "worker/model/moe.h"

#include <iterator>

#include "base/check.h"

namespace facet::worker {
namespace {

using kernels::DType;
using kernels::TensorView;

// Of the step's own tokens.
struct MoeViews {
  MoeViews(const Gemma4Config& config, const LayerShape& shape, const StepState& state)
      : dense_in(state.View(state.buffers.dense_in, config.hidden)),
        expert_in(state.View(state.buffers.expert_in, config.hidden)),
        topk_ids(
            state.buffers.topk_ids.data(), DType::kI32, {state.num_tokens, config.top_k_experts}),
        topk_weights(state.buffers.topk_weights.data(),
                     DType::kF32,
                     {state.num_tokens, config.top_k_experts}),
        dense_act(state.View(state.buffers.act, shape.intermediate)) {}

  TensorView dense_in;
  TensorView expert_in;
  TensorView topk_ids;
  TensorView topk_weights;
  TensorView dense_act;
};

void Route(kernels::Backend& backend,
           const Gemma4Config& config,
           const LayerWeights& weights,
           const MoeViews& views,
           const StepState& state) {
  backend.NormRouterTopK({.hidden = state.hidden,
                          .attention_out = state.branch,
                          .post_attention_norm = weights.post_attention_norm.view,
                          .pre_norm = weights.pre_feedforward_norm.view,
                          .pre_norm_2 = weights.pre_feedforward_norm_2.view,
                          .router_scale = weights.router_scale.view,
                          .router = weights.router,
                          .per_expert_scale = weights.per_expert_scale.view,
                          .eps = config.eps,
                          .dense_in = views.dense_in,
                          .expert_in = views.expert_in,
                          .topk_ids = views.topk_ids,
                          .topk_weights = views.topk_weights});
}

// What MoeUp and MoeDown work on; a part without rows is absent.
struct ExpertPart {
  TensorView in;        // [num_rows, hidden]
  TensorView topk_ids;  // [num_rows, top_k]
  TensorView act;       // [num_rows, top_k, expert_intermediate]
  TensorView out;       // [num_rows, top_k, hidden]
};

struct DensePart {
  TensorView in;   // [num_tokens, hidden]
  TensorView act;  // [num_tokens, intermediate]
  TensorView out;  // [num_tokens, hidden]
};

void UpAndDown(kernels::Backend& backend,
               const LayerWeights& weights,
               const ExpertPart& experts,
               const DensePart& dense) {
  backend.MoeUp({.expert_in = experts.in,
                 .dense_in = dense.in,
                 .topk_ids = experts.topk_ids,
                 .experts = weights.experts,
                 .dense_gate = weights.gate,
                 .dense_up = weights.up,
                 .act = experts.act,
                 .dense_act = dense.act});
  backend.MoeDown({.act = experts.act,
                   .dense_act = dense.act,
                   .topk_ids = experts.topk_ids,
                   .experts = weights.experts,
                   .dense_down = weights.down,
                   .out = experts.out,
                   .dense_out = dense.out,
                   .after_up = true});
}

}  // namespace

void Moe(kernels::Backend& backend,
         const Gemma4Config& config,
         const LayerShape& shape,
         const LayerWeights& weights,
         StepState& state) {
  FACET_CHECK_EQ(std::ssize(weights.experts), config.num_experts) << "experts of a rank alone";
  const StepBuffers& buffers = state.buffers;
  const int64_t tokens = state.num_tokens;
  const int64_t top_k = config.top_k_experts;
  const MoeViews views(config, shape, state);
  const TensorView expert_act(buffers.expert_act.data(), buffers.dtype,
                              {tokens, top_k, config.expert_intermediate});
  const TensorView expert_out(buffers.expert_out.data(), buffers.dtype,
                              {tokens, top_k, config.hidden});
  Route(backend, config, weights, views, state);
  UpAndDown(backend, weights, {views.expert_in, views.topk_ids, expert_act, expert_out},
            {views.dense_in, views.dense_act, state.branch});
  backend.MoeCombine({.hidden = state.hidden,
                      .out = expert_out,
                      .dense_out = state.branch,
                      .topk_ids = views.topk_ids,
                      .topk_weights = views.topk_weights,
                      .num_experts = config.num_experts,
                      .post_norm_1 = weights.post_feedforward_norm_1.view,
                      .post_norm_2 = weights.post_feedforward_norm_2.view,
                      .post_norm = weights.post_feedforward_norm.view,
                      .layer_scalar = weights.layer_scalar,
                      .eps = config.eps});
}

Status SharedMoe(kernels::Backend& backend,
                 const Gemma4Config& config,
                 const LayerShape& shape,
                 const LayerWeights& weights,
                 ExpertExchange& exchange,
                 StepState& state) {
  const DType dtype = state.buffers.dtype;
  const int64_t top_k = config.top_k_experts;
  const bool has_tokens = state.num_tokens > 0;
  const MoeViews views(config, shape, state);
  const ExpertPart no_experts = {TensorView(nullptr, dtype, {0, config.hidden}),
                                 TensorView(nullptr, DType::kI32, {0, top_k}),
                                 TensorView(nullptr, dtype, {0, top_k, config.expert_intermediate}),
                                 TensorView(nullptr, dtype, {0, top_k, config.hidden})};
  const DensePart no_dense = {TensorView(nullptr, dtype, {0, config.hidden}),
                              TensorView(nullptr, dtype, {0, shape.intermediate}),
                              TensorView(nullptr, dtype, {0, config.hidden})};

  if (has_tokens) Route(backend, config, weights, views, state);
  FACET_RETURN_IF_ERROR(exchange.Dispatch(views.expert_in, views.topk_ids, views.topk_weights));
  if (has_tokens) {  // While tokens travel.
    UpAndDown(backend, weights, no_experts, {views.dense_in, views.dense_act, state.branch});
  }
  FACET_ASSIGN_OR_RETURN(const ExpertRows rows, exchange.Receive());
  UpAndDown(backend, weights, {rows.hidden, rows.topk_ids, rows.act, rows.out}, no_dense);
  FACET_ASSIGN_OR_RETURN(const ReceivedSums received, exchange.Combine(rows));
  if (!has_tokens) return absl::OkStatus();
  backend.MoeCombineSlices({.hidden = state.hidden,
                            .sums = received.sums,
                            .dense_out = state.branch,
                            .topk_ids = views.topk_ids,
                            .places = received.places,
                            .num_experts = config.num_experts,
                            .capacity = received.capacity,
                            .post_norm_1 = weights.post_feedforward_norm_1.view,
                            .post_norm_2 = weights.post_feedforward_norm_2.view,
                            .post_norm = weights.post_feedforward_norm.view,
                            .layer_scalar = weights.layer_scalar,
                            .eps = config.eps});
  return absl::OkStatus();
}

}  // namespace facet::worker
