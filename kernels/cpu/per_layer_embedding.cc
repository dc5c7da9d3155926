#include "kernels/per_layer_embedding.h"

#include "kernels/approx.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/linear.h"

namespace facet::kernels {

void CpuBackend::DoPleInject(const PleInjectArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const int64_t ple_size = args.gate.rows;
  const int64_t ple_stride = args.ple.dim(1);
  WithElement(args.hidden.dtype(), [&]<typename T>() {
    T* rows = args.hidden.as<T>();
    pool_.For(num_tokens, [&](int64_t t, int thread) {
      AddNormed(primitives_, args.ffn_out.as<T>() + t * hidden, args.post_feedforward_norm.as<T>(),
                hidden, args.eps, rows + t * hidden, scratch_.Floats(thread, hidden));
    });
    T* gated = rows_.As<T>(num_tokens * (ple_size + hidden));
    T* projected = gated + num_tokens * ple_size;
    const T* ple = args.ple.as<T>() + args.layer * ple_size;
    Linear<T>(pool_, primitives_, scratch_, RowPointers<T>(rows, num_tokens, hidden), args.gate,
              [&](const TileSums& sums) {
                for (int64_t r = 0; r < sums.num_rows; ++r) {
                  const int64_t t = sums.first_row + r;
                  for (int64_t i = 0; i < sums.num_outputs; ++i) {
                    const int64_t p = sums.first_output + i;
                    const float gelu =
                        Rounded<T>(ApproxGelu(Rounded<T>(sums.y[r * sums.y_stride + i])));
                    gated[t * ple_size + p] = FromFloat<T>(gelu * ToFloat(ple[t * ple_stride + p]));
                  }
                }
              });
    Linear<T>(pool_, primitives_, scratch_, RowPointers<T>(gated, num_tokens, ple_size),
              args.projection,
              [&](const TileSums& sums) { StoreRounded(sums, projected, hidden, 0); });
    pool_.For(num_tokens, [&](int64_t t, int thread) {
      float* wide = scratch_.Floats(thread, hidden);
      T* row = rows + t * hidden;
      AddNormed(primitives_, projected + t * hidden, args.post_norm.as<T>(), hidden, args.eps, row,
                wide);
      for (int64_t i = 0; i < hidden; ++i) row[i] = FromFloat<T>(wide[i] * args.layer_scalar);
    });
  });
}

}  // namespace facet::kernels
