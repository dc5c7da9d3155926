// Rows of the embedding tables. Embed reads the head's packed weight: a row is spread over its tile
// in pieces of 4 bytes, of which a sector of 32 holds two, so a row costs four times its bytes.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/row_norm.cuh"

namespace facet::kernels {
namespace {

struct EmbedKernelArgs {
  const int32_t* ids = nullptr;
  const int32_t* last_tokens = nullptr;
  int32_t placeholders[kPlaceholdersMax] = {};
  int num_placeholders = 0;
  int32_t pad_id = 0;
  int32_t* resolved_ids = nullptr;
  const Bf16* table = nullptr;  // Packed.
  int64_t cols = 0;             // Even.
  float scale = 1;
  Bf16* hidden = nullptr;
};

// One CTA a token.
__global__ void __launch_bounds__(kRowThreads) EmbedKernel(EmbedKernelArgs args) {
  ptx::GridDependencyWait();
  int32_t id = args.ids[blockIdx.x];
  if (id < 0) id = args.last_tokens[-id - 1];
  bool placeholder = false;
#pragma unroll
  for (int i = 0; i < kPlaceholdersMax; ++i) {
    placeholder |= i < args.num_placeholders && id == args.placeholders[i];
  }
  if (placeholder) id = args.pad_id;
  if (threadIdx.x == 0) args.resolved_ids[blockIdx.x] = id;
  const int64_t num_col_blocks = NumColBlocks(args.cols);
  Bf16* hidden = args.hidden + blockIdx.x * args.cols;
  ForPairsOfThread(static_cast<int>(args.cols), [&](int col) {
    // Columns 2i and 2i + 1 are neighbours in the packed layout as well.
    const Bf16* from = args.table + PackedIndex(id, col, num_col_blocks);
    const RowPair pair = LoadPair(from, 0);
    StorePair(hidden, col, {pair.low * args.scale, pair.high * args.scale});
  });
  ptx::GridDependencyLaunch();
}

struct PleInputsKernelArgs {
  const int32_t* ids = nullptr;
  const void* table = nullptr;  // [vocab, width] of bf16 or f32
  bool table_is_f32 = false;
  const Bf16* context = nullptr;  // [num_tokens, width]: round(W hidden)
  const Bf16* norm_weight = nullptr;
  int64_t width = 0;
  int ple_size = 0;
  float token_scale = 1;
  float context_scale = 1;
  float root_half = 1;
  float eps = 0;
  Bf16* ple = nullptr;
};

// grid: slices (one layer's ple_size values) in eights by tokens. A warp has a slice: lane i adds
// the squares of elements i, i + 32, ..., then a butterfly adds the lanes.
__global__ void __launch_bounds__(kRowThreads) PleInputsKernel(PleInputsKernelArgs args) {
  ptx::GridDependencyWait();
  const int64_t token = blockIdx.y;
  const int64_t first = (blockIdx.x * kRowWarps + threadIdx.x / 32) * args.ple_size;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (first >= args.width) return;
  const Bf16* context = args.context + token * args.width + first;
  const int64_t table_row = args.ids[token] * args.width + first;

  float squares = 0;
  for (int i = lane; i < args.ple_size; i += 32) {
    const float c = RoundToBf16(ToFloat(context[i]) * args.context_scale);
    squares += c * c;
  }
  const float scale = RmsScale(WarpSum(squares), args.ple_size, args.eps);
  for (int i = lane; i < args.ple_size; i += 32) {
    const float c = RoundToBf16(ToFloat(context[i]) * args.context_scale);
    const float normed = RoundToBf16(c * scale * ToFloat(args.norm_weight[i]));
    const float value = args.table_is_f32
                            ? static_cast<const float*>(args.table)[table_row + i]
                            : ToFloat(static_cast<const Bf16*>(args.table)[table_row + i]);
    const float sum = RoundToBf16(normed + RoundToBf16(value * args.token_scale));
    args.ple[token * args.width + first + i] = ToBf16(sum * args.root_half);
  }
  ptx::GridDependencyLaunch();
}

}  // namespace

void CudaBackend::DoEmbed(const EmbedArgs& args) {
  FACET_CHECK_EQ(args.table.cols % 2, 0) << "Embed";
  EmbedKernelArgs kernel_args = {.ids = args.ids.as<int32_t>(),
                                 .last_tokens = args.last_tokens.as<int32_t>(),
                                 .num_placeholders = static_cast<int>(args.placeholders.size()),
                                 .pad_id = args.pad_id,
                                 .resolved_ids = args.resolved_ids.as<int32_t>(),
                                 .table = static_cast<const Bf16*>(args.table.data.data()),
                                 .cols = args.table.cols,
                                 .scale = args.scale,
                                 .hidden = args.hidden.as<Bf16>()};
  std::copy(args.placeholders.begin(), args.placeholders.end(), kernel_args.placeholders);
  Check(ptx::Launch({.grid = dim3(static_cast<unsigned>(args.ids.dim(0))),
                     .block = dim3(kRowThreads),
                     .stream = stream_},
                    EmbedKernel, kernel_args),
        "Embed");
}

void CudaBackend::DoPleInputs(const PleInputsArgs& args) {
  const int64_t num_tokens = args.ids.dim(0);
  const int64_t width = args.projection.rows;
  const int64_t ple_size = args.norm_weight.dim(0);
  Bf16* context = ScratchFor<Bf16>(Scratch::kProjected, num_tokens * width);
  auto work = MakeDenseWork("PleInputs", args.hidden.raw(), num_tokens, args.projection.cols,
                            StoreRounded{context, width});
  work.weights[0] = ViewOf(args.projection);
  Linear("PleInputs projection", work);

  const PleInputsKernelArgs kernel_args = {.ids = args.ids.as<int32_t>(),
                                           .table = args.table.raw(),
                                           .table_is_f32 = args.table.dtype() == DType::kF32,
                                           .context = context,
                                           .norm_weight = args.norm_weight.as<Bf16>(),
                                           .width = width,
                                           .ple_size = static_cast<int>(ple_size),
                                           .token_scale = args.token_scale,
                                           .context_scale = args.context_scale,
                                           .root_half = std::sqrt(0.5F),
                                           .eps = args.eps,
                                           .ple = args.ple.as<Bf16>()};
  const auto slice_groups = static_cast<unsigned>(CeilDiv<int64_t>(width / ple_size, kRowWarps));
  Check(ptx::Launch({.grid = dim3(slice_groups, static_cast<unsigned>(num_tokens)),
                     .block = dim3(kRowThreads),
                     .stream = stream_},
                    PleInputsKernel, kernel_args),
        "PleInputs");
}

}  // namespace facet::kernels
