#include "kernels/cuda/pack.h"
#include "kernels/cuda/packed_layout.h"
#include "kernels/cuda/ptx.cuh"

namespace facet::kernels {
namespace {

constexpr int kThreads = 256;

// One thread writes the eight elements of one lane in one step: 16 bytes.
__global__ void __launch_bounds__(kThreads) PackKernel(const PackArgs args) {
  ptx::GridDependencyWait();
  const int64_t num_col_blocks = NumColBlocks(args.cols);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= PackedElements(args.rows, args.cols) / 8) return;
  const auto lane = static_cast<int>(index % 32);
  const auto step = static_cast<int>(index / 32 % 2);
  const int64_t block = index / 64;
  const int64_t first_row = block / num_col_blocks * kTileRows + lane / 4;
  const int64_t first_col = block % num_col_blocks * kBlockCols + lane % 4 * 8 + step * 4;
  Bf16* out = args.packed + index * 8;
  for (int reg = 0; reg < 4; ++reg) {
    for (int i = 0; i < 2; ++i) {
      const int64_t row = first_row + reg % 2 * 8;
      const int64_t col = first_col + reg / 2 * 2 + i;
      Bf16 value = 0;
      if (row < args.rows && col < args.cols) {
        const int64_t at = row * args.cols + col;
        value = args.source_is_f32 ? ToBf16(static_cast<const float*>(args.source)[at])
                                   : static_cast<const Bf16*>(args.source)[at];
      }
      out[reg * 2 + i] = value;
    }
  }
}

}  // namespace

cudaError_t LaunchPack(const PackArgs& args, cudaStream_t stream) {
  const int64_t num_threads = PackedElements(args.rows, args.cols) / 8;
  return ptx::Launch({.grid = dim3(static_cast<unsigned>((num_threads + kThreads - 1) / kThreads)),
                      .block = dim3(kThreads),
                      .stream = stream},
                     PackKernel, args);
}

}  // namespace facet::kernels
