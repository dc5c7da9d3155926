// Ranks that share experts: MoePack, MoeUnpack, MoeSliceSums, MoeCombineSlices.
//
// Launches: MoePack is places (one CTA, a warp per rank) and rows (a CTA per token and block); the
// others are one launch, a CTA per row or token. Rows without an expert here leave at once, so that
// capacity that is not used costs a CTA's launch and a few words. All of them move rows once: at
// 26B-A4B a row is 5.6 KB.
#include "base/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/moe_sums.cuh"
#include "kernels/moe_exchange.h"

namespace facet::kernels {
namespace {

constexpr int kVectorElements = 8;  // Of 16 bytes.

// Where things lie in blocks, as plain numbers.
struct Blocks {
  std::byte* base;
  int64_t block_bytes;
  int64_t row_bytes;
  int64_t ids_offset;
  int64_t weights_offset;
  int64_t capacity;

  FACET_DEVICE int32_t* Count(int64_t block) const {
    return reinterpret_cast<int32_t*>(base + block * block_bytes);
  }

  FACET_DEVICE std::byte* Row(int64_t block, int64_t row) const {
    return base + block * block_bytes + BlockLayout::kAlignment + row * row_bytes;
  }
};

Blocks BlocksOf(const void* base, int64_t cols, int64_t top_k, int64_t capacity) {
  const MoeRowLayout layout(DType::kBf16, cols, top_k);
  const BlockLayout block = layout.Blocks(capacity);
  return {.base = static_cast<std::byte*>(const_cast<void*>(base)),
          .block_bytes = block.block_bytes(),
          .row_bytes = block.row_bytes,
          .ids_offset = layout.ids_offset,
          .weights_offset = layout.weights_offset,
          .capacity = capacity};
}

FACET_DEVICE void CopyRow(const void* from, void* to, int cols) {
#pragma unroll 1  // Rows are a turn or two long; more would spill.
  for (int i = static_cast<int>(threadIdx.x); i < cols / kVectorElements; i += kRowThreads) {
    static_cast<uint4*>(to)[i] = static_cast<const uint4*>(from)[i];
  }
}

// --- Pack -------------------------------------------------------------------------------------

struct PackArgs {
  const Bf16* expert_in;
  const int32_t* ids;
  const float* weights;
  Blocks blocks;
  int32_t* places;                    // [num_tokens, num_ranks]
  unsigned long long* expert_tokens;  // [num_experts]
  int num_tokens;
  int num_ranks;
  int experts_per_rank;
  int top_k;
  int cols;
  bool gather;
};

// Warp r finds the tokens of rank r, 32 at a time, in their order.
__global__ void __launch_bounds__(32 * kExpertSlices) PlacesKernel(PackArgs args) {
  const int rank = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  ptx::GridDependencyWait();
  int next = 0;
  for (int first = 0; first < args.num_tokens; first += 32) {
    const int token = first + lane;
    bool concerned = false;
    if (token < args.num_tokens) {
      const int32_t* ids = args.ids + static_cast<int64_t>(token) * args.top_k;
      for (int j = 0; j < args.top_k; ++j) concerned |= ids[j] / args.experts_per_rank == rank;
    }
    const uint32_t votes = ptx::Ballot(concerned);
    if (token < args.num_tokens) {
      const int row = args.gather ? token : next + ptx::CountBits(votes & ((1U << lane) - 1));
      args.places[static_cast<int64_t>(token) * args.num_ranks + rank] = concerned ? row : -1;
    }
    next += ptx::CountBits(votes);
  }
  if (lane == 0) {
    if (!args.gather) {
      *args.blocks.Count(rank) = next;
    } else if (rank == 0) {
      *args.blocks.Count(0) = args.num_tokens;
    }
  }
  ptx::GridDependencyLaunch();
}

// CTA (token, block).
__global__ void __launch_bounds__(kRowThreads) PackRowsKernel(PackArgs args) {
  const int64_t token = blockIdx.x;
  const int block = static_cast<int>(blockIdx.y);
  const int mine = static_cast<int>(threadIdx.x);
  ptx::GridDependencyWait();
  const int64_t first = token * args.top_k;
  if (block == 0 && mine < args.top_k) {
    ptx::AtomicAdd(args.expert_tokens + args.ids[first + mine], 1ULL);
  }
  const int64_t row = args.gather ? token : args.places[token * args.num_ranks + block];
  if (row >= 0) {
    std::byte* to = args.blocks.Row(block, row);
    CopyRow(args.expert_in + token * args.cols, to, args.cols);
    if (mine < args.top_k) {
      reinterpret_cast<int32_t*>(to + args.blocks.ids_offset)[mine] = args.ids[first + mine];
      reinterpret_cast<float*>(to + args.blocks.weights_offset)[mine] = args.weights[first + mine];
    }
  }
  ptx::GridDependencyLaunch();
}

// --- Unpack -----------------------------------------------------------------------------------

struct UnpackArgs {
  Blocks blocks;
  Bf16* rows;
  int32_t* ids;
  float* weights;
  int first_expert;
  int num_experts_here;
  int top_k;
  int cols;
};

__global__ void __launch_bounds__(kRowThreads) UnpackKernel(UnpackArgs args) {
  const int64_t row = blockIdx.x;
  const int64_t from = row / args.blocks.capacity;
  const int64_t k = row % args.blocks.capacity;
  const int mine = static_cast<int>(threadIdx.x);
  ptx::GridDependencyWait();
  const bool valid = k < *args.blocks.Count(from);
  const std::byte* at = args.blocks.Row(from, k);
  const auto* ids = reinterpret_cast<const int32_t*>(at + args.blocks.ids_offset);
  bool any = false;
  for (int j = 0; valid && j < args.top_k; ++j) {
    const int64_t local = static_cast<int64_t>(ids[j]) - args.first_expert;
    any |= local >= 0 && local < args.num_experts_here;
  }
  if (mine < args.top_k) {
    const int64_t local = valid ? static_cast<int64_t>(ids[mine]) - args.first_expert : -1;
    const bool here = local >= 0 && local < args.num_experts_here;
    args.ids[row * args.top_k + mine] = here ? static_cast<int32_t>(local) : -1;
    if (any) {
      args.weights[row * args.top_k + mine] =
          reinterpret_cast<const float*>(at + args.blocks.weights_offset)[mine];
    }
  }
  if (any) CopyRow(at, args.rows + row * args.cols, args.cols);
  ptx::GridDependencyLaunch();
}

// --- Sums -------------------------------------------------------------------------------------

struct SliceSumsArgs {
  const Bf16* out;  // [num_rows, top_k, cols]
  const int32_t* ids;
  const float* weights;
  Bf16* sums;  // [num_rows, num_slices, cols]
  int num_slices;
  int experts_per_slice;
  int top_k;
  int cols;
};

__global__ void __launch_bounds__(kRowThreads) SliceSumsKernel(SliceSumsArgs args) {
  FACET_SHARED(order, SliceOrder);
  const int64_t row = blockIdx.x;
  ptx::GridDependencyWait();
  OrderChoices(
      args.ids + row * args.top_k, args.top_k, [&](int id) { return id / args.experts_per_slice; },
      order);
  ptx::SyncThreads();
  if (order.num_choices > 0) {
    ForPairsOfThread(args.cols, [&](int col) {
      ForSliceSums(order, args.out + row * args.top_k * args.cols, args.weights + row * args.top_k,
                   args.cols, col, [&](int slice, RowPair sum) {
                     StorePair(args.sums + (row * args.num_slices + slice) * args.cols, col, sum);
                   });
    });
  }
  ptx::GridDependencyLaunch();
}

struct CombineSlicesArgs {
  const Bf16* sums;  // [num_ranks * capacity * slices, cols]
  const int32_t* ids;
  const int32_t* places;
  int num_experts;
  int num_ranks;
  int top_k;
  int64_t capacity;
};

__global__ void __launch_bounds__(kRowThreads)
    CombineSlicesKernel(CombineSlicesArgs args, MoeEndArgs end) {
  FACET_SHARED(slices, const Bf16* [kExpertSlices]);  // Rows of sums; null: the token has none.
  const int64_t token = blockIdx.x;
  ptx::GridDependencyWait();
  if (const int slice = static_cast<int>(threadIdx.x); slice < kExpertSlices) {
    const int32_t* ids = args.ids + token * args.top_k;
    bool named = false;
    for (int j = 0; j < args.top_k; ++j) {
      named |= kExpertSlices * ids[j] / args.num_experts == slice;
    }
    const int slices_per_rank = kExpertSlices / args.num_ranks;
    const int rank = slice / slices_per_rank;
    const int64_t place = args.places[token * args.num_ranks + rank];
    const int64_t row = (rank * args.capacity + place) * slices_per_rank + slice % slices_per_rank;
    slices[slice] = named ? args.sums + row * end.cols : nullptr;
  }
  ptx::SyncThreads();
  EndMoeLayer(end, token, [&](int col) {
    RowPair total;
    for (int slice = 0; slice < kExpertSlices; ++slice) {
      if (slices[slice] != nullptr) AddRounded(total, LoadPair(slices[slice], col));
    }
    return total;
  });
  ptx::GridDependencyLaunch();
}

}  // namespace

void CudaBackend::DoMoePack(const MoePackArgs& args) {
  const int64_t num_tokens = args.expert_in.dim(0);
  const int64_t cols = args.expert_in.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  const auto num_ranks = static_cast<int>(args.places.dim(1));
  FACET_CHECK_EQ(cols % kVectorElements, 0) << "MoePack";
  FACET_CHECK_LE(top_k, kTopKMax);
  const PackArgs pack{.expert_in = args.expert_in.as<Bf16>(),
                      .ids = args.topk_ids.as<int32_t>(),
                      .weights = args.topk_weights.as<float>(),
                      .blocks = BlocksOf(args.blocks.raw(), cols, top_k, args.capacity),
                      .places = args.places.as<int32_t>(),
                      .expert_tokens = reinterpret_cast<unsigned long long*>(args.expert_tokens),
                      .num_tokens = static_cast<int>(num_tokens),
                      .num_ranks = num_ranks,
                      .experts_per_rank = args.num_experts / num_ranks,
                      .top_k = static_cast<int>(top_k),
                      .cols = static_cast<int>(cols),
                      .gather = args.form == MoeDispatch::kAllGather};
  Check(ptx::Launch({.grid = dim3(1),
                     .block = dim3(static_cast<unsigned>(32 * num_ranks)),
                     .stream = stream_},
                    PlacesKernel, pack),
        "MoePack places");
  if (num_tokens == 0) return;
  Check(ptx::Launch({.grid = dim3(static_cast<unsigned>(num_tokens),
                                  static_cast<unsigned>(args.blocks.dim(0))),
                     .block = dim3(kRowThreads),
                     .stream = stream_},
                    PackRowsKernel, pack),
        "MoePack rows");
}

void CudaBackend::DoMoeUnpack(const MoeUnpackArgs& args) {
  const int64_t cols = args.rows.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  FACET_CHECK_EQ(cols % kVectorElements, 0) << "MoeUnpack";
  FACET_CHECK_LE(top_k, kTopKMax);
  const UnpackArgs unpack{.blocks = BlocksOf(args.blocks.raw(), cols, top_k, args.capacity),
                          .rows = args.rows.as<Bf16>(),
                          .ids = args.topk_ids.as<int32_t>(),
                          .weights = args.topk_weights.as<float>(),
                          .first_expert = args.first_expert,
                          .num_experts_here = args.num_experts_here,
                          .top_k = static_cast<int>(top_k),
                          .cols = static_cast<int>(cols)};
  Check(ptx::Launch({.grid = dim3(static_cast<unsigned>(args.rows.dim(0))),
                     .block = dim3(kRowThreads),
                     .stream = stream_},
                    UnpackKernel, unpack),
        "MoeUnpack");
}

void CudaBackend::DoMoeSliceSums(const MoeSliceSumsArgs& args) {
  const int64_t cols = args.out.dim(2);
  const int64_t top_k = args.out.dim(1);
  const auto num_slices = static_cast<int>(args.sums.dim(1));
  FACET_CHECK_EQ(cols % 2, 0) << "MoeSliceSums";
  FACET_CHECK_LE(top_k, kTopKMax);
  const SliceSumsArgs sums{.out = args.out.as<Bf16>(),
                           .ids = args.topk_ids.as<int32_t>(),
                           .weights = args.topk_weights.as<float>(),
                           .sums = args.sums.as<Bf16>(),
                           .num_slices = num_slices,
                           .experts_per_slice = args.num_experts_here / num_slices,
                           .top_k = static_cast<int>(top_k),
                           .cols = static_cast<int>(cols)};
  Check(ptx::Launch({.grid = dim3(static_cast<unsigned>(args.out.dim(0))),
                     .block = dim3(kRowThreads),
                     .stream = stream_},
                    SliceSumsKernel, sums),
        "MoeSliceSums");
}

void CudaBackend::DoMoeCombineSlices(const MoeCombineSlicesArgs& args) {
  const int64_t cols = args.hidden.dim(1);
  FACET_CHECK_EQ(cols % 2, 0) << "MoeCombineSlices";
  const CombineSlicesArgs combine{.sums = args.sums.as<Bf16>(),
                                  .ids = args.topk_ids.as<int32_t>(),
                                  .places = args.places.as<int32_t>(),
                                  .num_experts = args.num_experts,
                                  .num_ranks = static_cast<int>(args.places.dim(1)),
                                  .top_k = static_cast<int>(args.topk_ids.dim(1)),
                                  .capacity = args.capacity};
  Check(ptx::Launch({.grid = dim3(static_cast<unsigned>(args.hidden.dim(0))),
                     .block = dim3(kRowThreads),
                     .smem_bytes = MoeEndSmemBytes(cols),
                     .stream = stream_},
                    CombineSlicesKernel, combine, MoeEndOf(args)),
        "MoeCombineSlices");
}

}  // namespace facet::kernels
