// The projections around attention: NormQkv and OutputProj.
//
// NormQkv is one launch up to 4 tokens: every CTA norms the rows itself, into shared memory, while
// its first weights are on their way; the 20 KB it reads for that are in L2 after the first CTA.
// With more tokens the rows are normed once, by a launch of their own. Both give the same bits.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/row_norm.cuh"

namespace facet::kernels {
namespace {

constexpr int kFusedNormTokensMax = 4;

struct FusedNormWork : DenseWork<StoreRounded> {
  static constexpr int kRowTilesMax = 2;

  const Bf16* norm_weight = nullptr;
  float eps = 0;

  // Elements between rows in shared memory: 64 bytes more than a row, so that the lanes of a load
  // fall on different banks.
  FACET_ALWAYS_INLINE int row_stride() const { return cols + 32; }

  FACET_DEVICE DenseInputs Inputs(const LinearPlace<1>&, ptx::SmemArena& arena) const {
    const int stride = row_stride();
    float* warp_sums = arena.Take<float>(kRowWarps);
    Bf16* rows = arena.Take<Bf16>(kFusedNormTokensMax * stride);
    for (int token = 0; token < num_tokens; ++token) {
      NormRow(input.base + input.Offset(token), norm_weight, cols, eps, warp_sums,
              rows + token * stride);
    }
    ptx::SyncThreads();
    return {rows, stride};
  }

  size_t InputSmemBytes() const {
    return kRowWarps * sizeof(float) + kFusedNormTokensMax * row_stride() * sizeof(Bf16);
  }
};

static_assert(kLinearThreads == kRowThreads, "NormRow runs inside StreamKernel");

}  // namespace

cudaError_t LaunchLinear(const DenseWork<StoreRounded>& work, int num_sms, cudaStream_t stream) {
  return LaunchDense(work, num_sms, stream);
}

void CudaBackend::DoNormQkv(const NormQkvArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t cols = args.hidden.dim(1);
  DenseWork<StoreRounded> work = MakeDenseWork("NormQkv", args.hidden.raw(), num_tokens, cols,
                                               StoreRounded{args.qkv.as<Bf16>(), args.qkv.dim(1)});
  int num_weights = 0;
  for (const PackedWeight* weight : {args.q, args.k, args.v}) {
    if (weight != nullptr) work.weights[num_weights++] = ViewOf(*weight);
  }
  if (num_tokens <= kFusedNormTokensMax) {
    FusedNormWork fused{work, args.norm_weight.as<Bf16>(), args.eps};
    Check(LaunchStreamTokens<1>(fused, info_.num_sms, stream_), "NormQkv");
    return;
  }
  Bf16* normed = ScratchFor<Bf16>(Scratch::kNormed, num_tokens * cols);
  Check(LaunchNormRows({.in = args.hidden.as<Bf16>(),
                        .weight = args.norm_weight.as<Bf16>(),
                        .out = normed,
                        .num_rows = num_tokens,
                        .cols = cols,
                        .eps = args.eps},
                       stream_),
        "NormQkv norm");
  work.input.base = normed;
  Linear("NormQkv", work);
}

void CudaBackend::DoOutputProj(const OutputProjArgs& args) {
  auto work = MakeDenseWork("OutputProj", args.attention.raw(), args.attention.dim(0),
                            args.weight.cols, StoreRounded{args.out.as<Bf16>(), args.weight.rows});
  work.weights[0] = ViewOf(args.weight);
  Linear("OutputProj", work);
}

}  // namespace facet::kernels
