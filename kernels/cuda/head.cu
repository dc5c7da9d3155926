// From hidden states to logits: the chosen rows are normed, then the vocabulary is streamed once.
// 262144 x 2560 weights are 1.34 GB, 16384 CTAs of 80 KB (or a half or a quarter as many, wider):
// at 4.3 TB/s 312 us, the largest product of a step.
#include "kernels/approx.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/row_norm.cuh"

namespace facet::kernels {
namespace {

// logits = round(round(tanh(round(round(y) / cap))) * cap), stored as float32; cap 0 means none.
struct SoftcapLogits {
  static constexpr int kMatrices = 1;
  static constexpr int kRowTilesMax = 4;

  float* logits = nullptr;
  int64_t stride = 0;
  float softcap = 0;

  FACET_DEVICE void Store(int token, int column, const float (&y)[1]) const {
    float logit = RoundToBf16(y[0]);
    if (softcap != 0) {
      logit = RoundToBf16(RoundToBf16(ApproxTanh(RoundToBf16(logit / softcap))) * softcap);
    }
    logits[token * stride + column] = logit;
  }
};

}  // namespace

void CudaBackend::DoHead(const HeadArgs& args) {
  const int64_t num_rows = args.rows.dim(0);
  const int64_t cols = args.hidden.dim(1);
  Bf16* normed = ScratchFor<Bf16>(Scratch::kNormed, num_rows * cols);
  Check(LaunchNormRows({.in = args.hidden.as<Bf16>(),
                        .rows = args.rows.as<int32_t>(),
                        .weight = args.norm_weight.as<Bf16>(),
                        .out = normed,
                        .num_rows = num_rows,
                        .cols = cols,
                        .eps = args.eps},
                       stream_),
        "Head norm");
  auto work = MakeDenseWork("Head", normed, num_rows, cols,
                            SoftcapLogits{args.logits.as<float>(), args.weight.rows, args.softcap});
  work.weights[0] = ViewOf(args.weight);
  Check(LaunchDense(work, info_.num_sms, stream_), "Head");
}

}  // namespace facet::kernels
