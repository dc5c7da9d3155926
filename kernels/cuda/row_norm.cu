#include "base/check.h"
#include "kernels/cuda/row_norm.cuh"

namespace facet::kernels {
namespace {

__global__ void __launch_bounds__(kRowThreads) NormRowsKernel(NormRowsArgs args) {
  ptx::SmemArena arena;
  float* warp_sums = arena.Take<float>(kRowWarps);
  ptx::GridDependencyWait();
  const int64_t to = blockIdx.x;
  const int64_t from = args.rows == nullptr ? to : args.rows[to];
  NormRow(args.in + from * args.cols, args.weight, static_cast<int>(args.cols), args.eps, warp_sums,
          args.out + to * args.cols);
  ptx::GridDependencyLaunch();
}

__global__ void __launch_bounds__(kRowThreads) AddBranchKernel(AddBranchArgs args) {
  ptx::SmemArena arena;
  float* warp_sums = arena.Take<float>(kRowWarps);
  const int cols = static_cast<int>(args.cols);
  const int64_t first = blockIdx.x * args.cols;
  Bf16* hidden = args.hidden + first;
  const Bf16* branch = args.branch + first;
  ptx::GridDependencyWait();

  float squares = 0;
  ForPairsOfThread(cols, [&](int col) { squares += SumOfSquares(LoadPair(branch, col)); });
  const float scale = RmsScale(BlockSum(squares, warp_sums), cols, args.eps);

  float hidden_squares = 0;
  ForPairsOfThread(cols, [&](int col) {
    const RowPair add = Normed(LoadPair(branch, col), scale, LoadPair(args.branch_norm, col));
    const RowPair old = LoadPair(hidden, col);
    const RowPair sum = {RoundToBf16(RoundToBf16(old.low + add.low) * args.scalar),
                         RoundToBf16(RoundToBf16(old.high + add.high) * args.scalar)};
    StorePair(hidden, col, sum);
    hidden_squares += SumOfSquares(sum);
  });
  if (args.next != nullptr) {
    const float next_scale = RmsScale(BlockSum(hidden_squares, warp_sums), cols, args.eps);
    ForPairsOfThread(cols, [&](int col) {
      StorePair(args.next + first, col,
                Normed(LoadPair(hidden, col), next_scale, LoadPair(args.next_norm, col)));
    });
  }
  ptx::GridDependencyLaunch();
}

ptx::LaunchShape OneCtaPerRow(int64_t num_rows, cudaStream_t stream) {
  return {.grid = dim3(static_cast<unsigned>(num_rows)),
          .block = dim3(kRowThreads),
          .smem_bytes = kRowWarps * sizeof(float),
          .stream = stream};
}

}  // namespace

cudaError_t LaunchNormRows(const NormRowsArgs& args, cudaStream_t stream) {
  FACET_CHECK_EQ(args.cols % 2, 0);
  return ptx::Launch(OneCtaPerRow(args.num_rows, stream), NormRowsKernel, args);
}

cudaError_t LaunchAddBranch(const AddBranchArgs& args, cudaStream_t stream) {
  FACET_CHECK_EQ(args.cols % 2, 0);
  return ptx::Launch(OneCtaPerRow(args.num_rows, stream), AddBranchKernel, args);
}

}  // namespace facet::kernels
