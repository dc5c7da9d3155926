// The experts' sum by slices and the layer's end, as MoeCombine and the ops of moe_exchange.h have
// them: one order of additions for all, so that bits are equal.
#pragma once

#include <cstdint>

#include "kernels/cuda/row_norm.cuh"

namespace facet::kernels {

inline constexpr int kTopKMax = 16;

// A row's choices by ascending expert, in shared memory; choices with ids below 0 are none.
struct SliceOrder {
  int num_choices;
  int choices[kTopKMax];
  int slices[kTopKMax];  // Of choices' experts.
};

// All threads call it; the block must meet before order is read.
template <typename SliceOfId>
FACET_DEVICE void OrderChoices(const int32_t* ids,
                               int top_k,
                               const SliceOfId& slice_of,
                               SliceOrder& order) {
  const int mine = static_cast<int>(threadIdx.x);
  if (mine >= top_k) return;
  const int32_t id = ids[mine];
  int place = 0;
  int count = 0;
  for (int j = 0; j < top_k; ++j) {
    count += ids[j] >= 0 ? 1 : 0;
    place += ids[j] >= 0 && ids[j] < id ? 1 : 0;
  }
  if (mine == 0) order.num_choices = count;
  if (id < 0) return;
  order.choices[place] = mine;
  order.slices[place] = slice_of(id);
}

// Calls take(slice, sum) for each slice of the row, ascending: sum is of weight * out at the pair
// of columns col, over the slice's choices by ascending id, not yet rounded. out is [top_k, cols].
template <typename Take>
FACET_DEVICE void ForSliceSums(const SliceOrder& order,
                               const Bf16* out,
                               const float* weights,
                               int cols,
                               int col,
                               const Take& take) {
  RowPair sum;
  for (int i = 0; i < order.num_choices; ++i) {
    const int j = order.choices[i];
    const float weight = weights[j];
    const RowPair y = LoadPair(out + static_cast<int64_t>(j) * cols, col);
    sum.low += weight * y.low;
    sum.high += weight * y.high;
    if (i + 1 == order.num_choices || order.slices[i + 1] != order.slices[i]) {
      take(order.slices[i], sum);
      sum = RowPair();
    }
  }
}

// total += round(sum).
FACET_DEVICE void AddRounded(RowPair& total, RowPair sum) {
  total.low += RoundToBf16(sum.low);
  total.high += RoundToBf16(sum.high);
}

struct MoeEndArgs {
  Bf16* hidden;
  const Bf16* dense_out;  // [num_tokens, cols]
  const Bf16* post_norm_1;
  const Bf16* post_norm_2;
  const Bf16* post_norm;
  int cols;
  float layer_scalar;
  float eps;
};

// Args of MoeCombine, or alike.
template <typename Args>
MoeEndArgs MoeEndOf(const Args& args) {
  return {.hidden = args.hidden.template as<Bf16>(),
          .dense_out = args.dense_out.template as<Bf16>(),
          .post_norm_1 = args.post_norm_1.template as<Bf16>(),
          .post_norm_2 = args.post_norm_2.template as<Bf16>(),
          .post_norm = args.post_norm.template as<Bf16>(),
          .cols = static_cast<int>(args.hidden.dim(1)),
          .layer_scalar = args.layer_scalar,
          .eps = args.eps};
}

// Dynamic shared memory of a block that calls EndMoeLayer. The row begins at the next multiple of
// 16 bytes.
inline size_t MoeEndSmemBytes(int64_t cols) {
  static_assert(kRowWarps * sizeof(float) % 16 == 0);
  return kRowWarps * sizeof(float) + static_cast<size_t>(cols) * sizeof(Bf16);
}

// From the experts' sum, total_of(col), to the residual stream; all threads of a block of
// kRowThreads call it for one token.
template <typename TotalOf>
FACET_DEVICE void EndMoeLayer(const MoeEndArgs& args, int64_t token, const TotalOf& total_of) {
  ptx::SmemArena arena;
  float* warp_sums = arena.Take<float>(kRowWarps);
  Bf16* row = arena.Take<Bf16>(static_cast<size_t>(args.cols));
  const Bf16* dense = args.dense_out + token * args.cols;
  Bf16* hidden = args.hidden + token * args.cols;

  // 1 The experts' sum.
  float dense_squares = 0;
  float expert_squares = 0;
  ForPairsOfThread(args.cols, [&](int col) {
    StorePair(row, col, total_of(col));
    expert_squares += SumOfSquares(LoadPair(row, col));
    dense_squares += SumOfSquares(LoadPair(dense, col));
  });
  const float dense_scale = RmsScale(BlockSum(dense_squares, warp_sums), args.cols, args.eps);
  const float expert_scale = RmsScale(BlockSum(expert_squares, warp_sums), args.cols, args.eps);

  // 2 Both paths, each through its norm.
  float squares = 0;
  ForPairsOfThread(args.cols, [&](int col) {
    const RowPair a = Normed(LoadPair(dense, col), dense_scale, LoadPair(args.post_norm_1, col));
    const RowPair b = Normed(LoadPair(row, col), expert_scale, LoadPair(args.post_norm_2, col));
    StorePair(row, col, {a.low + b.low, a.high + b.high});
    squares += SumOfSquares(LoadPair(row, col));
  });
  const float scale = RmsScale(BlockSum(squares, warp_sums), args.cols, args.eps);

  // 3 The layer's end.
  ForPairsOfThread(args.cols, [&](int col) {
    const RowPair add = Normed(LoadPair(row, col), scale, LoadPair(args.post_norm, col));
    const RowPair old = LoadPair(hidden, col);
    StorePair(hidden, col,
              {RoundToBf16(old.low + add.low) * args.layer_scalar,
               RoundToBf16(old.high + add.high) * args.layer_scalar});
  });
}

}  // namespace facet::kernels
