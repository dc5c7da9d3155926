#include "kernels/head.h"

#include "kernels/approx.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/linear.h"
#include "kernels/host_sampling.h"

namespace facet::kernels {
void CpuBackend::DoHead(const HeadArgs& args) {
  const int64_t num_rows = args.rows.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const int64_t vocab = args.weight.rows;
  WithElement(args.hidden.dtype(), [&]<typename T>() {
    T* normed = rows_.As<T>(num_rows * hidden);
    pool_.For(num_rows, [&](int64_t r, int thread) {
      float* x = scratch_.Floats(thread, hidden);
      Widen(args.hidden.as<T>() + args.rows.as<int32_t>()[r] * hidden, hidden, x);
      RmsNormRow(primitives_, x, args.norm_weight.as<T>(), hidden, args.eps, normed + r * hidden);
    });
    Linear<T>(pool_, primitives_, scratch_, RowPointers<T>(normed, num_rows, hidden), args.weight,
              [&](const TileSums& sums) {
                for (int64_t r = 0; r < sums.num_rows; ++r) {
                  const float* y = sums.y + r * sums.y_stride;
                  float* to =
                      args.logits.as<float>() + (sums.first_row + r) * vocab + sums.first_output;
                  for (int64_t i = 0; i < sums.num_outputs; ++i) {
                    float logit = Rounded<T>(y[i]);
                    if (args.softcap != 0) {
                      const float tanh = ApproxTanh(Rounded<T>(logit / args.softcap));
                      logit = Rounded<T>(Rounded<T>(tanh) * args.softcap);
                    }
                    to[i] = logit;
                  }
                }
              });
  });
}

void CpuBackend::Draw(const SampleArgs& args, std::span<SampledToken> tokens) {
  const int64_t vocab = args.logits.dim(1);
  pool_.For(static_cast<int64_t>(args.rows.size()), [&](int64_t i, int thread) {
    const SampleRow& row = args.rows[i];
    tokens[i] = SampleOnHost(row, args.logits.as<float>() + row.logits_row * vocab, vocab,
                             scratch_.Floats(thread, vocab));
  });
}

}  // namespace facet::kernels
