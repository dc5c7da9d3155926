// The experts' sum by slices and the layer's end, as MoeCombine and the ops of moe_exchange.h have
// them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/reference/plain.h"

namespace facet::kernels::reference {

// Sum of weight · out over the choices of row r for which in_slice(id), by ascending id, not yet
// rounded; nothing if there is none. ids and weights are [rows, top_k] like out.
template <typename InSlice>
std::optional<Row> SliceSum(const ConstTensorView& out,
                            const ConstTensorView& ids,
                            const ConstTensorView& weights,
                            int64_t r,
                            const InSlice& in_slice) {
  const int64_t top_k = ids.dim(1);
  const int32_t* row_ids = ids.as<int32_t>() + r * top_k;
  std::vector<int64_t> chosen;
  for (int64_t j = 0; j < top_k; ++j) {
    if (row_ids[j] >= 0 && in_slice(row_ids[j])) chosen.push_back(j);
  }
  if (chosen.empty()) return std::nullopt;
  std::sort(chosen.begin(), chosen.end(),
            [&](int64_t a, int64_t b) { return row_ids[a] < row_ids[b]; });
  Row sum(out.dim(2));
  for (const int64_t j : chosen) {
    const Row y = RowOf(out, r * top_k + j);
    const float weight = weights.as<float>()[r * top_k + j];
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += weight * y[i];
  }
  return sum;
}

// From the sum of token t's slices to the residual stream. args are MoeCombine's, or alike.
template <typename Args>
void EndMoeLayer(const Args& args, int64_t t, Row total) {
  const DType dtype = args.hidden.dtype();
  const float layer_scalar = Misread(Misreading::kLayerScalarIgnored) ? 1 : args.layer_scalar;
  const bool swapped = Misread(Misreading::kMoePostNormsSwapped);
  for (float& value : total) value = RoundTo(dtype, value);
  const Row a = RmsNorm(RowOf(args.dense_out, t), swapped ? args.post_norm_2 : args.post_norm_1,
                        args.eps, dtype);
  const Row b = RmsNorm(total, swapped ? args.post_norm_1 : args.post_norm_2, args.eps, dtype);
  Row branch = Add(a, b, dtype);
  if (!Misread(Misreading::kPostFeedforwardNormIgnored)) {
    branch = RmsNorm(branch, args.post_norm, args.eps, dtype);
  }
  PutRow(args.hidden, t, Scale(Add(RowOf(args.hidden, t), branch, dtype), layer_scalar, dtype));
}

}  // namespace facet::kernels::reference
