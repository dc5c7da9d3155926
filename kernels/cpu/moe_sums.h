// The experts' sum by slices and the layer's end, as MoeCombine and the ops of moe_exchange.h have
// them: one order of additions for all, so that bits are equal.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/rows.h"

namespace facet::kernels {

// Calls take(slice, sum) for each slice that has a choice of the row, ascending: sum is float
// [hidden], of weight · out over the slice's choices by ascending id, not yet rounded. out is
// [top_k, hidden]; choices with ids below 0 are none. sum_memory has room for hidden floats.
template <typename T, typename SliceOfId, typename Take>
void ForSliceSums(const T* out,
                  const int32_t* ids,
                  const float* weights,
                  int64_t top_k,
                  int64_t hidden,
                  float* sum_memory,
                  const SliceOfId& slice_of,
                  const Take& take) {
  std::vector<int64_t> order;
  for (int64_t j = 0; j < top_k; ++j) {
    if (ids[j] >= 0) order.push_back(j);
  }
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });
  size_t i = 0;
  while (i < order.size()) {
    const int64_t slice = slice_of(ids[order[i]]);
    std::fill_n(sum_memory, hidden, 0.0F);
    for (; i < order.size() && slice_of(ids[order[i]]) == slice; ++i) {
      const T* y = out + order[i] * hidden;
      const float weight = weights[order[i]];
      for (int64_t h = 0; h < hidden; ++h) sum_memory[h] += weight * ToFloat(y[h]);
    }
    take(slice, sum_memory);
  }
}

// From the sum of token t's slices (overwritten) to the residual stream. args are MoeCombine's, or
// alike; wide has room for hidden floats.
template <typename T, typename Args>
void EndMoeLayer(
    const Primitives& primitives, const Args& args, int64_t t, float* total, float* wide) {
  const int64_t hidden = args.hidden.dim(1);
  for (int64_t i = 0; i < hidden; ++i) total[i] = Rounded<T>(total[i]);
  RmsNormRow(primitives, total, args.post_norm_2.template as<T>(), hidden, args.eps, total);
  Widen(args.dense_out.template as<T>() + t * hidden, hidden, wide);
  RmsNormRow(primitives, wide, args.post_norm_1.template as<T>(), hidden, args.eps, wide);
  for (int64_t i = 0; i < hidden; ++i) total[i] = Rounded<T>(wide[i] + total[i]);
  RmsNormRow(primitives, total, args.post_norm.template as<T>(), hidden, args.eps, total);
  T* row = args.hidden.template as<T>() + t * hidden;
  for (int64_t i = 0; i < hidden; ++i) {
    row[i] = FromFloat<T>(Rounded<T>(ToFloat(row[i]) + total[i]) * args.layer_scalar);
  }
}

}  // namespace facet::kernels
