// The dense feed-forward: a row kernel for the residual and both norms, then gate and up as one
// product of two weights (a CTA has the same rows of both, so that the activation needs no trip to
// memory), then down; where the layer ends here, one more row kernel.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gated_gelu.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/row_norm.cuh"

namespace facet::kernels {

cudaError_t LaunchGatedGelu(const DenseWork<StoreGatedGelu>& work,
                            int num_sms,
                            cudaStream_t stream) {
  return LaunchDense(work, num_sms, stream);
}

void CudaBackend::DoNormGateUp(const NormGateUpArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t cols = args.hidden.dim(1);
  Bf16* normed = ScratchFor<Bf16>(Scratch::kNormed, num_tokens * cols);
  Check(LaunchAddBranch({.hidden = args.hidden.as<Bf16>(),
                         .branch = args.attention_out.as<Bf16>(),
                         .branch_norm = args.post_attention_norm.as<Bf16>(),
                         .next_norm = args.pre_feedforward_norm.as<Bf16>(),
                         .next = normed,
                         .num_rows = num_tokens,
                         .cols = cols,
                         .eps = args.eps},
                        stream_),
        "NormGateUp norms");
  auto work = MakeDenseWork("NormGateUp", normed, num_tokens, cols,
                            StoreGatedGelu{args.act.as<Bf16>(), args.gate.rows});
  work.weights[0] = ViewOf(args.gate);
  work.weights[1] = ViewOf(args.up);
  GatedLinear("NormGateUp", work);
}

void CudaBackend::DoMlpDown(const MlpDownArgs& args) {
  const int64_t num_tokens = args.act.dim(0);
  auto work = MakeDenseWork("MlpDown", args.act.raw(), num_tokens, args.weight.cols,
                            StoreRounded{args.out.as<Bf16>(), args.weight.rows});
  work.weights[0] = ViewOf(args.weight);
  Linear("MlpDown", work);
  if (args.finish_hidden.empty()) return;
  Check(LaunchAddBranch({.hidden = args.finish_hidden.as<Bf16>(),
                         .branch = args.out.as<Bf16>(),
                         .branch_norm = args.post_feedforward_norm.as<Bf16>(),
                         .scalar = args.layer_scalar,
                         .num_rows = num_tokens,
                         .cols = args.weight.rows,
                         .eps = args.eps},
                        stream_),
        "MlpDown finish");
}

}  // namespace facet::kernels
