#include "kernels/per_layer_embedding.h"

#include "kernels/reference/plain.h"
#include "kernels/reference/reference_backend.h"

namespace facet::kernels {

using namespace reference;  // NOLINT(google-build-using-namespace): the words of this folder.

void ReferenceBackend::DoPleInject(const PleInjectArgs& args) {
  const DType dtype = args.hidden.dtype();
  const int64_t ple_size = args.gate.rows;
  const float layer_scalar = Misread(Misreading::kLayerScalarIgnored) ? 1 : args.layer_scalar;
  for (int64_t t = 0; t < args.hidden.dim(0); ++t) {
    Row branch = RowOf(args.ffn_out, t);
    if (!Misread(Misreading::kPostFeedforwardNormIgnored)) {
      branch = RmsNorm(branch, args.post_feedforward_norm, args.eps, dtype);
    }
    Row hidden = Add(RowOf(args.hidden, t), branch, dtype);
    if (Misread(Misreading::kPleScalarBeforeInject)) hidden = Scale(hidden, layer_scalar, dtype);
    const Row gate_in =
        Misread(Misreading::kPleGateNormed) ? RmsNorm(hidden, {}, args.eps, dtype) : hidden;
    Row g = Linear(args.gate, gate_in, dtype);
    for (int64_t i = 0; i < ple_size; ++i) {
      if (!Misread(Misreading::kPleGeluIgnored)) g[i] = RoundTo(dtype, Gelu(g[i]));
      g[i] = RoundTo(dtype, g[i] * At(args.ple, t * args.ple.dim(1) + args.layer * ple_size + i));
    }
    const Row p = RmsNorm(Linear(args.projection, g, dtype), args.post_norm, args.eps, dtype);
    hidden = Add(hidden, p, dtype);
    if (!Misread(Misreading::kPleScalarBeforeInject)) hidden = Scale(hidden, layer_scalar, dtype);
    PutRow(args.hidden, t, hidden);
  }
}

}  // namespace facet::kernels
