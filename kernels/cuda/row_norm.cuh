// RMS norms of a row by one CTA of 256 threads, and the two row kernels that ops put between their
// products.
//
// Order of sums: thread i squares and adds pairs i, i + 256, ... of the row, a butterfly of
// shuffles adds the lanes of a warp, and the 8 warps are added upwards. Nothing depends on how many
// rows there are. A row of 2560 bf16 values is 5 KB: these kernels last as long as their launches
// and two or three trips to memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/dtype.h"

namespace facet::kernels {

inline constexpr int kRowThreads = 256;
inline constexpr int kRowWarps = kRowThreads / 32;

// The same on all lanes.
FACET_DEVICE float WarpSum(float value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += ptx::ShuffleXor(value, mask);
  return value;
}

// The same on all threads; warp_sums is kRowWarps floats of shared memory. All threads call it.
FACET_DEVICE float BlockSum(float value, float* warp_sums) {
  const float warp_sum = WarpSum(value);
  ptx::SyncThreads();  // Nobody still reads the sums of the call before.
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = warp_sum;
  ptx::SyncThreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kRowWarps; ++w) sum += warp_sums[w];
  return sum;
}

// 1 / sqrt(mean + eps), as the contracts have it.
FACET_DEVICE float RmsScale(float sum_of_squares, int cols, float eps) {
  return 1.0F / sqrtf(sum_of_squares / static_cast<float>(cols) + eps);
}

// Two neighbouring elements of a row.
struct RowPair {
  float low = 0;
  float high = 0;
};

FACET_DEVICE RowPair LoadPair(const Bf16* row, int col) {
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(row + col);
  return {FloatOfBits(bits << 16), FloatOfBits(bits & 0xffff0000)};
}

FACET_DEVICE void StorePair(Bf16* row, int col, RowPair pair) {
  *reinterpret_cast<uint32_t*>(row + col) =
      ToBf16(pair.low) | static_cast<uint32_t>(ToBf16(pair.high)) << 16;
}

FACET_DEVICE float SumOfSquares(RowPair pair) {
  return pair.low * pair.low + pair.high * pair.high;
}

// round(pair * scale * weight), as floats.
FACET_DEVICE RowPair Normed(RowPair pair, float scale, RowPair weight) {
  return {RoundToBf16(pair.low * scale * weight.low), RoundToBf16(pair.high * scale * weight.high)};
}

// Calls visit(col) for the even columns whose pairs are this thread's.
template <typename Visit>
FACET_DEVICE void ForPairsOfThread(int cols, const Visit& visit) {
#pragma unroll 4
  for (int col = 2 * static_cast<int>(threadIdx.x); col < cols; col += 2 * kRowThreads) visit(col);
}

// to = round(RmsNorm(from) * weight); to may be shared memory. All threads call it; each then sees
// its own pairs of to.
FACET_DEVICE void NormRow(
    const Bf16* from, const Bf16* weight, int cols, float eps, float* warp_sums, Bf16* to) {
  float squares = 0;
  ForPairsOfThread(cols, [&](int col) { squares += SumOfSquares(LoadPair(from, col)); });
  const float scale = RmsScale(BlockSum(squares, warp_sums), cols, eps);
  ForPairsOfThread(cols, [&](int col) {
    StorePair(to, col, Normed(LoadPair(from, col), scale, LoadPair(weight, col)));
  });
}

// out[i] = round(RmsNorm(in[rows[i]]) * weight).
struct NormRowsArgs {
  const Bf16* in = nullptr;
  const int32_t* rows = nullptr;  // Null: row i.
  const Bf16* weight = nullptr;
  Bf16* out = nullptr;
  int64_t num_rows = 0;
  int64_t cols = 0;  // Even.
  float eps = 0;
};

cudaError_t LaunchNormRows(const NormRowsArgs& args, cudaStream_t stream);

// A branch joins the residual stream, and what follows reads it through a norm of its own:
//   hidden = round(round(hidden + round(RmsNorm(branch) * branch_norm)) * scalar)
//   next = round(RmsNorm(hidden) * next_norm), unless next is null
struct AddBranchArgs {
  Bf16* hidden = nullptr;
  const Bf16* branch = nullptr;
  const Bf16* branch_norm = nullptr;
  float scalar = 1;
  const Bf16* next_norm = nullptr;
  Bf16* next = nullptr;
  int64_t num_rows = 0;
  int64_t cols = 0;  // Even.
  float eps = 0;
};

cudaError_t LaunchAddBranch(const AddBranchArgs& args, cudaStream_t stream);

}  // namespace facet::kernels
