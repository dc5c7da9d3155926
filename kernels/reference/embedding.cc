#include "kernels/embedding.h"

#include "kernels/reference/plain.h"
#include "kernels/reference/reference_backend.h"

namespace facet::kernels {

using namespace reference;  // NOLINT(google-build-using-namespace): the words of this folder.

void ReferenceBackend::DoEmbed(const EmbedArgs& args) {
  const int64_t hidden = args.table.cols;
  for (int64_t t = 0; t < args.ids.dim(0); ++t) {
    int32_t id = args.ids.as<int32_t>()[t];
    if (id < 0) id = args.last_tokens.as<int32_t>()[-id - 1];
    for (const int32_t placeholder : args.placeholders) {
      if (id == placeholder) {
        id = args.pad_id;
        break;
      }
    }
    args.resolved_ids.as<int32_t>()[t] = id;
    for (int64_t i = 0; i < hidden; ++i) {
      Put(args.hidden, t * hidden + i, WeightAt(args.table, id, i) * args.scale);
    }
  }
}

void ReferenceBackend::DoPleInputs(const PleInputsArgs& args) {
  const DType dtype = args.hidden.dtype();
  const int64_t width = args.projection.rows;
  const int64_t ple_size = args.norm_weight.dim(0);
  const float token_scale = Misread(Misreading::kPleTokenScaleIgnored) ? 1 : args.token_scale;
  const float context_scale = Misread(Misreading::kPleContextScaleIgnored) ? 1 : args.context_scale;
  const float root_half = Misread(Misreading::kPleRootHalfIgnored) ? 1 : std::sqrt(0.5F);
  for (int64_t t = 0; t < args.ids.dim(0); ++t) {
    const Row tokens = Scale(RowOf(args.table, args.ids.as<int32_t>()[t]), token_scale, dtype);
    const Row context =
        Scale(Linear(args.projection, RowOf(args.hidden, t), dtype), context_scale, dtype);
    for (int64_t first = 0; first < width; first += ple_size) {
      Row c(context.begin() + first, context.begin() + first + ple_size);
      if (!Misread(Misreading::kPleNormIgnored)) c = RmsNorm(c, args.norm_weight, args.eps, dtype);
      const Row part(tokens.begin() + first, tokens.begin() + first + ple_size);
      const Row sum = Scale(Add(c, part, dtype), root_half, dtype);
      for (int64_t i = 0; i < ple_size; ++i) Put(args.ple, t * width + first + i, sum[i]);
    }
  }
}

}  // namespace facet::kernels
