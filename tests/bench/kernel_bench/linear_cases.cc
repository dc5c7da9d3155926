// Ops that are one product with a weight matrix, at the shapes whose weights exceed 32 MB.
#include <functional>

#include "tests/bench/kernel_bench/bench.h"

namespace facet::bench {
namespace {

using kernels::DType;
using kernels::PackedWeight;
using worker::ModelShape;

constexpr float kEps = 1e-6F;
constexpr float kSoftcap = 30;
// From here on a product is no longer bound by the bytes of its weight and the project asks
// nothing.
constexpr int64_t kStreamedTokensMax = 32;
constexpr Bar kStreamed = {.must = 0.85, .good = 0.88};

// [rows, cols] of a matrix.
struct MatrixShape {
  int64_t rows;
  int64_t cols;
};

using WeightSet = std::vector<PackedWeight>;
// Makes the tensors for so many tokens and returns what enqueues one call.
using Prepare = std::function<std::function<void(const WeightSet&)>(int64_t num_tokens)>;

struct LinearCase {
  std::string op;
  std::string shape;
  std::vector<MatrixShape> matrices;
  double values_per_token = 0;  // bf16 values read and written beside the weights.
  Prepare prepare;
};

void Run(Bench& bench, const LinearCase& c) {
  double weight_values = 0;
  int64_t num_rows = 0;
  for (const MatrixShape& m : c.matrices) {
    num_rows += m.rows;
    weight_values += static_cast<double>(m.rows) * static_cast<double>(m.cols);
  }
  const auto set_bytes = static_cast<int64_t>(weight_values) * SizeOf(DType::kBf16);
  if (!bench.options().check && set_bytes < bench.options().weight_bytes_min) return;
  std::vector<WeightSet> sets(static_cast<size_t>(bench.NumSets(set_bytes)));
  for (WeightSet& set : sets) {
    for (const MatrixShape& m : c.matrices) set.push_back(bench.RandomWeight(m.rows, m.cols));
  }
  bench.backend().EndLoading();
  const std::vector<int64_t> all_tokens = bench.options().check
                                              ? std::vector<int64_t>{1, 9}
                                              : std::vector<int64_t>{1, 2, 4, 8, 16, 32, 64, 512};
  for (const int64_t num_tokens : all_tokens) {
    const std::function<void(const WeightSet&)> call = c.prepare(num_tokens);
    const auto tokens = static_cast<double>(num_tokens);
    CaseFigures figures{.op = c.op,
                        .shape = c.shape,
                        .tokens = num_tokens,
                        .bytes = 2 * (weight_values + tokens * c.values_per_token),
                        .flops = 2 * tokens * weight_values,
                        .bar = num_tokens <= kStreamedTokensMax ? kStreamed : Bar(),
                        .sizes = {{"m", num_tokens}, {"n", num_rows}, {"k", c.matrices[0].cols}}};
    figures.timing = bench.Time(Replay::kGraph, static_cast<int>(sets.size()),
                                [&](int i) { call(sets[static_cast<size_t>(i) % sets.size()]); });
    bench.Report(std::move(figures));
    bench.ForgetTensors();
  }
}

// The projections of one layer's attention.
void RunAttentionProjections(Bench& bench, const ModelShape& shape, bool full) {
  const int64_t head_dim = full ? shape.global_head_dim : shape.head_dim;
  const int64_t num_kv_heads =
      full && shape.num_global_kv_heads > 0 ? shape.num_global_kv_heads : shape.num_kv_heads;
  const int64_t q = shape.num_q_heads * head_dim;
  const int64_t kv = num_kv_heads * head_dim;
  const bool has_v = !(full && shape.k_eq_v);
  const int64_t width = q + (has_v ? 2 : 1) * kv;
  const int64_t hidden = shape.hidden;
  const std::string name = shape.name + (full ? " full" : " sliding");
  std::vector<MatrixShape> matrices = {{q, hidden}, {kv, hidden}};
  if (has_v) matrices.push_back({kv, hidden});
  Run(bench, {.op = "norm_qkv",
              .shape = name,
              .matrices = matrices,
              .values_per_token = static_cast<double>(hidden + width),
              .prepare = [&bench, hidden, width](int64_t tokens) {
                kernels::NormQkvArgs args{.hidden = bench.RandomTensor({tokens, hidden}),
                                          .norm_weight = bench.Constant(DType::kBf16, hidden, 1),
                                          .eps = kEps,
                                          .qkv = bench.Output(DType::kBf16, {tokens, width})};
                return [&bench, args](const WeightSet& set) mutable {
                  args.q = set.data();
                  args.k = &set[1];
                  args.v = set.size() > 2 ? &set[2] : nullptr;
                  bench.backend().NormQkv(args);
                };
              }});
  Run(bench, {.op = "output_proj",
              .shape = name,
              .matrices = {{hidden, q}},
              .values_per_token = static_cast<double>(hidden + q),
              .prepare = [&bench, hidden, q](int64_t tokens) {
                const kernels::ConstTensorView x = bench.RandomTensor({tokens, q});
                const kernels::TensorView out = bench.Output(DType::kBf16, {tokens, hidden});
                return [&bench, x, out](const WeightSet& set) {
                  bench.backend().OutputProj({.attention = x, .weight = set[0], .out = out});
                };
              }});
}

void RunMlp(Bench& bench, const ModelShape& shape) {
  const int64_t hidden = shape.hidden;
  const int64_t width = shape.intermediate;
  Run(bench, {.op = "norm_gate_up",
              .shape = shape.name,
              .matrices = {{width, hidden}, {width, hidden}},
              .values_per_token = static_cast<double>(3 * hidden + width),
              .prepare = [&bench, hidden, width](int64_t tokens) {
                const kernels::TensorView residual = bench.RandomTensor({tokens, hidden});
                const kernels::ConstTensorView attention = bench.RandomTensor({tokens, hidden});
                const kernels::ConstTensorView norm = bench.Constant(DType::kBf16, hidden, 1);
                const kernels::TensorView act = bench.Output(DType::kBf16, {tokens, width});
                return [&bench, residual, attention, norm, act](const WeightSet& set) {
                  bench.backend().NormGateUp({.hidden = residual,
                                              .attention_out = attention,
                                              .post_attention_norm = norm,
                                              .pre_feedforward_norm = norm,
                                              .eps = kEps,
                                              .gate = set[0],
                                              .up = set[1],
                                              .act = act});
                };
              }});
  // Without per-layer embeddings the layer ends here.
  const bool finishes = shape.ple_size == 0;
  Run(bench, {.op = "mlp_down",
              .shape = shape.name,
              .matrices = {{hidden, width}},
              .values_per_token = static_cast<double>((finishes ? 3 : 1) * hidden + width),
              .prepare = [&bench, hidden, width, finishes](int64_t tokens) {
                const kernels::ConstTensorView act = bench.RandomTensor({tokens, width});
                const kernels::TensorView residual =
                    finishes ? bench.RandomTensor({tokens, hidden}) : kernels::TensorView();
                const kernels::ConstTensorView norm = bench.Constant(DType::kBf16, hidden, 1);
                const kernels::TensorView out = bench.Output(DType::kBf16, {tokens, hidden});
                return [&bench, act, residual, norm, out](const WeightSet& set) {
                  bench.backend().MlpDown({.act = act,
                                           .weight = set[0],
                                           .out = out,
                                           .finish_hidden = residual,
                                           .post_feedforward_norm = norm,
                                           .layer_scalar = 0.5F,
                                           .eps = kEps});
                };
              }});
}

void RunHead(Bench& bench, const ModelShape& shape) {
  const int64_t hidden = shape.hidden;
  const int64_t vocab = shape.vocab;
  Run(bench, {.op = "head",
              .shape = shape.name,
              .matrices = {{vocab, hidden}},
              .values_per_token = static_cast<double>(hidden + 2 * vocab),  // Logits are float32.
              .prepare = [&bench, hidden, vocab](int64_t tokens) {
                std::vector<int32_t> rows(static_cast<size_t>(tokens));
                for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
                bench.backend().BeginStep();
                const kernels::ConstTensorView x = bench.RandomTensor({tokens, hidden});
                const kernels::ConstTensorView norm = bench.Constant(DType::kBf16, hidden, 1);
                const kernels::ConstTensorView staged = bench.backend().StageInts(rows);
                bench.backend().SendStaged();
                const kernels::TensorView logits = bench.Output(DType::kF32, {tokens, vocab});
                return [&bench, x, norm, staged, logits](const WeightSet& set) {
                  bench.backend().Head({.hidden = x,
                                        .norm_weight = norm,
                                        .weight = set[0],
                                        .rows = staged,
                                        .logits = logits,
                                        .eps = kEps,
                                        .softcap = kSoftcap});
                };
              }});
}

}  // namespace

void RunLinearCases(Bench& bench) {
  for (const ModelShape& shape : bench.Shapes({"e4b", "26b", "31b"})) {
    for (const bool full : {false, true}) RunAttentionProjections(bench, shape, full);
    if (shape.num_experts == 0) RunMlp(bench, shape);
    RunHead(bench, shape);
  }
}

}  // namespace facet::bench
