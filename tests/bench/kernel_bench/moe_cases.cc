// The feed-forward of one 26B-A4B layer: router, experts beside the dense path, combination. All
// four ops are one case, because that is what a layer costs.
#include <set>

#include "tests/bench/kernel_bench/bench.h"

namespace facet::bench {
namespace {

using kernels::ConstTensorView;
using kernels::DType;
using kernels::TensorView;
using worker::ModelShape;

constexpr float kEps = 1e-6F;
constexpr double kValueBytes = 2;
// Inputs that take turns, so that calls choose other experts.
constexpr int kNumInputs = 8;

struct MoeWeights {
  std::vector<kernels::ExpertWeights> experts;
  kernels::PackedWeight router;
  kernels::PackedWeight dense_gate;
  kernels::PackedWeight dense_up;
  kernels::PackedWeight dense_down;
};

MoeWeights MakeWeights(Bench& bench, const ModelShape& shape) {
  MoeWeights weights;
  for (int e = 0; e < shape.num_experts; ++e) {
    weights.experts.push_back({bench.RandomWeight(shape.expert_intermediate, shape.hidden),
                               bench.RandomWeight(shape.expert_intermediate, shape.hidden),
                               bench.RandomWeight(shape.hidden, shape.expert_intermediate)});
  }
  weights.router = bench.RandomWeight(shape.num_experts, shape.hidden);
  weights.dense_gate = bench.RandomWeight(shape.intermediate, shape.hidden);
  weights.dense_up = bench.RandomWeight(shape.intermediate, shape.hidden);
  weights.dense_down = bench.RandomWeight(shape.hidden, shape.intermediate);
  bench.backend().EndLoading();
  return weights;
}

// What one call reads and writes; several of them share nothing but the weights and the norms.
struct Activations {
  TensorView hidden;
  ConstTensorView attention_out;
  TensorView dense_in, expert_in, topk_ids, topk_weights, act, dense_act, out, dense_out;
};

Activations MakeActivations(Bench& bench, const ModelShape& shape, int64_t tokens) {
  const int64_t hidden = shape.hidden;
  const int64_t top_k = shape.top_k_experts;
  return {.hidden = bench.RandomTensor({tokens, hidden}),
          .attention_out = bench.RandomTensor({tokens, hidden}),
          .dense_in = bench.Output(DType::kBf16, {tokens, hidden}),
          .expert_in = bench.Output(DType::kBf16, {tokens, hidden}),
          .topk_ids = bench.Output(DType::kI32, {tokens, top_k}),
          .topk_weights = bench.Output(DType::kF32, {tokens, top_k}),
          .act = bench.Output(DType::kBf16, {tokens, top_k, shape.expert_intermediate}),
          .dense_act = bench.Output(DType::kBf16, {tokens, shape.intermediate}),
          .out = bench.Output(DType::kBf16, {tokens, top_k, hidden}),
          .dense_out = bench.Output(DType::kBf16, {tokens, hidden})};
}

struct Norms {
  ConstTensorView hidden;      // [hidden], ones.
  ConstTensorView per_expert;  // [num_experts], ones.
};

void EnqueueLayer(kernels::Backend& backend,
                  const MoeWeights& weights,
                  const Norms& norms,
                  const Activations& a) {
  backend.NormRouterTopK({.hidden = a.hidden,
                          .attention_out = a.attention_out,
                          .post_attention_norm = norms.hidden,
                          .pre_norm = norms.hidden,
                          .pre_norm_2 = norms.hidden,
                          .router_scale = norms.hidden,
                          .router = weights.router,
                          .per_expert_scale = norms.per_expert,
                          .eps = kEps,
                          .dense_in = a.dense_in,
                          .expert_in = a.expert_in,
                          .topk_ids = a.topk_ids,
                          .topk_weights = a.topk_weights});
  backend.MoeUp({.expert_in = a.expert_in,
                 .dense_in = a.dense_in,
                 .topk_ids = a.topk_ids,
                 .experts = weights.experts,
                 .dense_gate = weights.dense_gate,
                 .dense_up = weights.dense_up,
                 .act = a.act,
                 .dense_act = a.dense_act});
  backend.MoeDown({.act = a.act,
                   .dense_act = a.dense_act,
                   .topk_ids = a.topk_ids,
                   .experts = weights.experts,
                   .dense_down = weights.dense_down,
                   .out = a.out,
                   .dense_out = a.dense_out,
                   .after_up = true});
  backend.MoeCombine({.hidden = a.hidden,
                      .out = a.out,
                      .dense_out = a.dense_out,
                      .topk_ids = a.topk_ids,
                      .topk_weights = a.topk_weights,
                      .num_experts = static_cast<int>(weights.experts.size()),
                      .post_norm_1 = norms.hidden,
                      .post_norm_2 = norms.hidden,
                      .post_norm = norms.hidden,
                      .layer_scalar = 0.5F,
                      .eps = kEps});
}

// Different experts that one call of these choices reads.
int64_t NumExpertsChosen(kernels::Backend& backend, const TensorView& topk_ids) {
  std::vector<int32_t> ids(static_cast<size_t>(topk_ids.num_elements()));
  backend.CopyToHost(ids.data(), topk_ids.raw(), topk_ids.num_elements() * SizeOf(DType::kI32));
  return static_cast<int64_t>(std::set<int32_t>(ids.begin(), ids.end()).size());
}

struct Load {
  int64_t num_tokens;
  Bar bar;
};

void Run(Bench& bench, const ModelShape& shape, const MoeWeights& weights, const Load& load) {
  const Norms norms = {.hidden = bench.Constant(DType::kBf16, shape.hidden, 1),
                       .per_expert = bench.Constant(DType::kBf16, shape.num_experts, 1)};
  // Many tokens choose all experts whatever the input is.
  const int num_inputs = load.num_tokens > 64 ? 1 : bench.options().check ? 2 : kNumInputs;
  std::vector<Activations> inputs;
  inputs.reserve(static_cast<size_t>(num_inputs));
  for (int i = 0; i < num_inputs; ++i) {
    inputs.push_back(MakeActivations(bench, shape, load.num_tokens));
  }
  CaseFigures figures{
      .op = "moe_ffn", .shape = shape.name, .tokens = load.num_tokens, .bar = load.bar};
  figures.timing = bench.Time(Replay::kGraph, num_inputs, [&](int i) {
    EnqueueLayer(bench.backend(), weights, norms, inputs[static_cast<size_t>(i) % inputs.size()]);
  });
  double experts = 0;
  for (const Activations& a : inputs) {
    experts += static_cast<double>(NumExpertsChosen(bench.backend(), a.topk_ids));
  }
  experts /= static_cast<double>(inputs.size());
  const double tokens = static_cast<double>(load.num_tokens);
  const double expert_values = 3.0 * shape.hidden * shape.expert_intermediate;
  const double dense_values = 3.0 * shape.hidden * shape.intermediate;
  const double router_values = static_cast<double>(shape.hidden) * shape.num_experts;
  // hidden in and out and the attention's output; everything between could stay in cache.
  figures.bytes = kValueBytes * (experts * expert_values + dense_values + router_values +
                                 3 * tokens * shape.hidden);
  figures.flops = 2 * tokens * (shape.top_k_experts * expert_values + dense_values + router_values);
  bench.Report(std::move(figures));
  bench.ForgetTensors();
}

}  // namespace

void RunMoeCases(Bench& bench) {
  const std::vector<Load> loads =
      bench.options().check
          ? std::vector<Load>{{1, {}}, {9, {}}}
          : std::vector<Load>{{1, {0.65, 0.80}}, {8, {0.75, 0.85}}, {32, {0.85, 0.90}},
                              {128, {}},         {512, {}},         {4096, {}}};
  for (const ModelShape& shape : bench.Shapes({"26b"})) {
    const MoeWeights weights = MakeWeights(bench, shape);
    for (const Load& load : loads) Run(bench, shape, weights, load);
  }
}

}  // namespace facet::bench
