#include "kernels/mlp.h"

#include "kernels/reference/plain.h"
#include "kernels/reference/reference_backend.h"

namespace facet::kernels {

using namespace reference;  // NOLINT(google-build-using-namespace): the words of this folder.

void ReferenceBackend::DoNormGateUp(const NormGateUpArgs& args) {
  const DType dtype = args.hidden.dtype();
  for (int64_t t = 0; t < args.hidden.dim(0); ++t) {
    Row branch = RowOf(args.attention_out, t);
    if (!Misread(Misreading::kPostAttentionNormIgnored)) {
      branch = RmsNorm(branch, args.post_attention_norm, args.eps, dtype);
    }
    const Row hidden = Add(RowOf(args.hidden, t), branch, dtype);
    const Row x = RmsNorm(hidden, args.pre_feedforward_norm, args.eps, dtype);
    PutRow(args.hidden, t, Misread(Misreading::kResidualAfterNorm) ? x : hidden);
    PutRow(args.act, t, GatedGelu(Linear(args.gate, x, dtype), Linear(args.up, x, dtype), dtype));
  }
}

void ReferenceBackend::DoMlpDown(const MlpDownArgs& args) {
  const DType dtype = args.act.dtype();
  const float layer_scalar = Misread(Misreading::kLayerScalarIgnored) ? 1 : args.layer_scalar;
  for (int64_t t = 0; t < args.act.dim(0); ++t) {
    const Row out = Linear(args.weight, RowOf(args.act, t), dtype);
    PutRow(args.out, t, out);
    if (args.finish_hidden.empty()) continue;
    const Row branch = Misread(Misreading::kPostFeedforwardNormIgnored)
                           ? out
                           : RmsNorm(out, args.post_feedforward_norm, args.eps, dtype);
    PutRow(args.finish_hidden, t,
           Scale(Add(RowOf(args.finish_hidden, t), branch, dtype), layer_scalar, dtype));
  }
}

}  // namespace facet::kernels
