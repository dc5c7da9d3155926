#include "kernels/mlp.h"

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/linear.h"

namespace facet::kernels {

void CpuBackend::DoNormGateUp(const NormGateUpArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  WithElement(args.hidden.dtype(), [&]<typename T>() {
    T* normed = rows_.As<T>(num_tokens * hidden);
    pool_.For(num_tokens, [&](int64_t t, int thread) {
      float* wide = scratch_.Floats(thread, hidden);
      AddNormed(primitives_, args.attention_out.as<T>() + t * hidden,
                args.post_attention_norm.as<T>(), hidden, args.eps,
                args.hidden.as<T>() + t * hidden, wide);
      RmsNormRow(primitives_, wide, args.pre_feedforward_norm.as<T>(), hidden, args.eps,
                 normed + t * hidden);
    });
    GatedGelu<T>(pool_, primitives_, scratch_, RowPointers(normed, num_tokens, hidden), args.gate,
                 args.up, args.act.as<T>(), args.gate.rows);
  });
}

void CpuBackend::DoMlpDown(const MlpDownArgs& args) {
  const int64_t num_tokens = args.act.dim(0);
  const int64_t hidden = args.weight.rows;
  WithElement(args.act.dtype(), [&]<typename T>() {
    T* out = args.out.as<T>();
    Linear<T>(pool_, primitives_, scratch_,
              RowPointers(args.act.as<T>(), num_tokens, args.act.dim(1)), args.weight,
              [&](const TileSums& sums) { StoreRounded(sums, out, hidden, 0); });
    if (args.finish_hidden.empty()) return;
    pool_.For(num_tokens, [&](int64_t t, int thread) {
      float* wide = scratch_.Floats(thread, hidden);
      T* row = args.finish_hidden.as<T>() + t * hidden;
      AddNormed(primitives_, out + t * hidden, args.post_feedforward_norm.as<T>(), hidden, args.eps,
                row, wide);
      for (int64_t i = 0; i < hidden; ++i) row[i] = FromFloat<T>(wide[i] * args.layer_scalar);
    });
  });
}

}  // namespace facet::kernels
