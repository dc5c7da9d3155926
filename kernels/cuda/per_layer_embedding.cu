// Injection of the per-layer embedding, in four launches: the feed-forward's branch joins, the gate
// (whose epilogue multiplies by the token's per-layer values), the projection, and its branch
// joins. The gate has a few hundred rows: its CTAs take one row tile each.
#include "kernels/approx.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/row_norm.cuh"

namespace facet::kernels {
namespace {

// g = round(round(gelu(round(gate))) * ple[token, column]).
struct PleGate {
  static constexpr int kMatrices = 1;
  static constexpr int kRowTilesMax = 1;

  Bf16* g = nullptr;
  int64_t stride = 0;
  const Bf16* ple = nullptr;  // The layer's column 0 of token 0.
  int64_t ple_stride = 0;

  FACET_DEVICE void Store(int token, int column, const float (&y)[1]) const {
    const float gelu = RoundToBf16(ApproxGelu(RoundToBf16(y[0])));
    g[token * stride + column] = ToBf16(gelu * ToFloat(ple[token * ple_stride + column]));
  }
};

}  // namespace

void CudaBackend::DoPleInject(const PleInjectArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t cols = args.hidden.dim(1);
  const int64_t ple_size = args.gate.rows;
  Check(LaunchAddBranch({.hidden = args.hidden.as<Bf16>(),
                         .branch = args.ffn_out.as<Bf16>(),
                         .branch_norm = args.post_feedforward_norm.as<Bf16>(),
                         .num_rows = num_tokens,
                         .cols = cols,
                         .eps = args.eps},
                        stream_),
        "PleInject first branch");

  Bf16* g = ScratchFor<Bf16>(Scratch::kNormed, num_tokens * ple_size);
  auto gate = MakeDenseWork("PleInject gate", args.hidden.raw(), num_tokens, cols,
                            PleGate{.g = g,
                                    .stride = ple_size,
                                    .ple = args.ple.as<Bf16>() + args.layer * ple_size,
                                    .ple_stride = args.ple.dim(1)});
  gate.weights[0] = ViewOf(args.gate);
  Check(LaunchDense(gate, info_.num_sms, stream_), "PleInject gate");

  Bf16* projected = ScratchFor<Bf16>(Scratch::kProjected, num_tokens * cols);
  auto projection =
      MakeDenseWork("PleInject projection", g, num_tokens, ple_size, StoreRounded{projected, cols});
  projection.weights[0] = ViewOf(args.projection);
  Linear("PleInject projection", projection);

  Check(LaunchAddBranch({.hidden = args.hidden.as<Bf16>(),
                         .branch = projected,
                         .branch_norm = args.post_norm.as<Bf16>(),
                         .scalar = args.layer_scalar,
                         .num_rows = num_tokens,
                         .cols = cols,
                         .eps = args.eps},
                        stream_),
        "PleInject second branch");
}

}  // namespace facet::kernels
