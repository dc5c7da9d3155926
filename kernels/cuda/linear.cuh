// y[token, row] = sum over k of weight[row, k] x[token, k], bfloat16 in, float32 sums: the kernels
// under every op that reads a weight matrix. Weights are the A operand of mma.sync m16n8k16 (16
// rows), tokens the B operand (8 columns): a decode step of one token wastes tensor time, of which
// there is plenty, and no bytes, of which there is not.
//
// Order of sums. The column blocks (32 k, packed_layout.h) of a weight are cut into 8 segments,
// segment s = blocks [s n / 8, (s + 1) n / 8). Within a segment one accumulator goes up the blocks;
// y = (((0 + segment 0) + segment 1) + ...) + segment 7. Both kernels below do exactly that, so y
// has the same bits for a token alone, in any batch and in any chunk of a prompt.
//
// StreamKernel, up to 64 tokens: weights come from memory once, at memory speed.
//
//                  k ─────────────────────────────────────────────▶
//   16 kRowTiles   │ warp 0  │ warp 1  │ warp 2  │  ...  │ warp 7  │   weights, each lane 16 bytes
//   rows           │ segment │ segment │ segment │       │ segment │   of a fragment at a time
//                       │         │         │                 │
//                       └─────────┴────┬────┴─────────────────┘
//                           shared memory, 8 sums added upwards → Store(token, row, y)
//
//   16 rows of 2560 are 80 KB a CTA. A lane keeps 8 loads of 16 bytes under way, a CTA 32 KB; two
//   CTAs on an SM keep 64 KB, where 4.3 TB/s over 132 SMs at some 0.8 us take 26. Activations come
//   through L1 and L2, 8 kTokenTiles tokens at a time: a quarter of the weights' bytes for one row
//   tile and 4 tokens, as many bytes as the weights for 64 rows and 64 tokens. Weights are asked
//   for before the launch before has ended.
//
// TiledKernel, more tokens: 128 rows by 128 tokens a CTA, 4 x 2 warps of 32 rows by 64 tokens;
// where that makes fewer CTAs than there are SMs, 64 by 64, 4 warps of 16 rows. Activations go
// through shared memory by cp.async, 64 k a stage; the layout of k makes a warp's fragment of 8
// tokens 512 contiguous bytes there, so nothing needs a swizzle. Weights are read as fragments
// straight from global memory (two warps read the same: L1). A block of 32 k of the large tile
// takes 48 KB out of L1 and shared memory, 384 clocks, beside some 400 for the products: near
// balance, at 0.6 of what wgmma could do. Sums and totals of segments are 128 registers a thread.
//
// Both are templates over a Work, a plain struct that says what a CTA multiplies; DenseWork is the
// one for whole matrices. A Work has:
//   kMatrices        1, or 2 where a CTA computes the same rows of two weights (gate and up)
//   kWaitsFirst      Locate reads what the launch before wrote
//   kRowTilesMax     of the StreamKernel instances that are built
//   cols             of the weights and the tokens, a multiple of 8
//   Locate(row_group, token_group, row_tiles, tokens)  the LinearPlace of one CTA
//   Inputs(place, arena)   where the values of tokens lie: base, and Offset(token) in elements, a
//                          multiple of 8; called once by all threads, may fill shared memory and
//                          synchronise
//   Store(place, token, row, y)   takes the kMatrices sums of one row
#pragma once

#include <algorithm>

#include "base/check.h"
#include "base/math.h"
#include "kernels/cuda/packed_layout.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/packed_weight.h"

namespace facet::kernels {

inline constexpr int kSegments = 8;
inline constexpr int kLinearThreads = 32 * kSegments;
inline constexpr int kStreamTokensMax = 64;
inline constexpr int kBlockVectors = kBlockElements / 8;  // 16-byte loads a block of weights takes.

// What one CTA computes.
template <int kNumMatrices>
struct LinearPlace {
  const uint4* matrices[kNumMatrices];  // Packed; all of one shape.
  int num_rows = 0;
  int first_row_tile = 0;
  int first_token = 0;
  int num_tokens = 0;    // Tokens from here on do not exist: they are zeros and not stored.
  int first_column = 0;  // Where row 0 of the matrix goes in the output.
};

FACET_ALWAYS_INLINE int SegmentBegin(int segment, int num_col_blocks) {
  return segment * num_col_blocks / kSegments;
}

// --- Pieces of both kernels -------------------------------------------------------------------

// One row tile and 8 tokens over one block of 32 k. A lane's 16 bytes of a token are its operands
// of both steps.
FACET_DEVICE void MmaBlock(float (&sum)[4], const uint4 (&weight)[2], const uint4& x) {
  const uint32_t a0[4] = {weight[0].x, weight[0].y, weight[0].z, weight[0].w};
  const uint32_t b0[2] = {x.x, x.y};
  ptx::MmaBf16(sum, a0, b0);
  const uint32_t a1[4] = {weight[1].x, weight[1].y, weight[1].z, weight[1].w};
  const uint32_t b1[2] = {x.z, x.w};
  ptx::MmaBf16(sum, a1, b1);
}

// A lane's two fragments of one block; row_tile points at the lane's first of block 0.
FACET_DEVICE void LoadWeightBlock(uint4 (&weight)[2], const uint4* row_tile, int block) {
  const uint4* at = row_tile + static_cast<int64_t>(block) * kBlockVectors;
  weight[0] = ptx::LoadStreaming16(at);
  weight[1] = ptx::LoadStreaming16(at + 32);
}

// Where a lane reads row tile `tile` of a matrix. Beyond the last tile the last is read again, and
// not stored.
FACET_DEVICE const uint4* RowTileOfLane(
    const uint4* matrix, int tile, int num_rows, int num_col_blocks, int lane) {
  const int last = static_cast<int>(NumRowTiles(num_rows)) - 1;
  const int64_t first_block = static_cast<int64_t>(tile < last ? tile : last) * num_col_blocks;
  return matrix + first_block * kBlockVectors + lane;
}

// --- Up to 64 tokens --------------------------------------------------------------------------

template <typename Work, int kRowTiles, int kTokenTiles>
struct StreamTile {
  static constexpr int kTiles = Work::kMatrices * kRowTiles;
  static constexpr int kRows = kRowTiles * kTileRows;
  static constexpr int kTokens = kTokenTiles * 8;
  // Blocks asked for ahead of the products: 8 loads of weights a lane, and 4 of activations, which
  // L2 has.
  static constexpr int kWeightDepth = kTiles >= 4 ? 1 : 4 / kTiles;
  static constexpr int kInputDepth = std::min(kWeightDepth, std::max(1, 4 / kTokenTiles));
  // Segment sums pass through shared memory in rounds of at most 36 KB. A token's row is padded so
  // that the lanes of a fragment fall on 32 banks.
  static constexpr int kRoundTokenTiles = std::min(kTokenTiles, std::max(1, 8 / kTiles));
  static constexpr int kRoundTokens = kRoundTokenTiles * 8;
  static constexpr int kSumStride = kTiles * kTileRows + 4;
  static constexpr int kSums = kSegments * kRoundTokens * kSumStride;
  static constexpr int kRegisters =
      4 * kTiles * kTokenTiles + 8 * kTiles * kWeightDepth + 4 * kTokenTiles * kInputDepth;
  static constexpr int kMinCtas = kRegisters <= 52 ? 3 : kRegisters <= 96 ? 2 : 1;
};

template <typename Work, int kRowTiles, int kTokenTiles>
__global__ void __launch_bounds__(kLinearThreads,
                                  (StreamTile<Work, kRowTiles, kTokenTiles>::kMinCtas))
    StreamKernel(Work work) {
  using Tile = StreamTile<Work, kRowTiles, kTokenTiles>;
  constexpr int kTiles = Tile::kTiles;
  constexpr int kDepth = Tile::kWeightDepth;
  constexpr int kInputDepth = Tile::kInputDepth;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  ptx::SmemArena arena;
  float* sums = arena.Take<float>(Tile::kSums);

  if constexpr (Work::kWaitsFirst) ptx::GridDependencyWait();
  const auto place = work.Locate(static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),
                                 kRowTiles, Tile::kTokens);
  if constexpr (Work::kWaitsFirst) {
    if (place.first_token >= place.num_tokens) return;
  }

  // 1 Ask for the first weights.
  const int num_col_blocks = static_cast<int>(NumColBlocks(work.cols));
  const int first = SegmentBegin(warp, num_col_blocks);
  const int end = SegmentBegin(warp + 1, num_col_blocks);
  const uint4* row_tiles[kTiles];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    row_tiles[i] =
        RowTileOfLane(place.matrices[i / kRowTiles], place.first_row_tile + i % kRowTiles,
                      place.num_rows, num_col_blocks, lane);
  }
  uint4 weights[kDepth][kTiles][2];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (first + d < end) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) LoadWeightBlock(weights[d][i], row_tiles[i], first + d);
    }
  }

  // 2 Wait for the activations and ask for the first.
  if constexpr (!Work::kWaitsFirst) ptx::GridDependencyWait();
  const auto inputs = work.Inputs(place, arena);
  int offsets[kTokenTiles];
#pragma unroll
  for (int j = 0; j < kTokenTiles; ++j) {
    const int token = place.first_token + j * 8 + lane / 4;
    offsets[j] = token < place.num_tokens ? inputs.Offset(token) : -1;
  }
  const auto load_inputs = [&](uint4(&x)[kTokenTiles], int block) {
    const int col = block * kBlockCols + lane % 4 * 8;
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
      x[j] = uint4{0, 0, 0, 0};
      if (col < work.cols && offsets[j] >= 0) {
        x[j] = *reinterpret_cast<const uint4*>(inputs.base + offsets[j] + col);
      }
    }
  };
  uint4 x[kInputDepth][kTokenTiles];
#pragma unroll
  for (int d = 0; d < kInputDepth; ++d) {
    if (first + d < end) load_inputs(x[d], first + d);
  }

  // 3 Go up the segment; what a product has used is asked for again kDepth blocks on.
  float acc[kTiles][kTokenTiles][4] = {};
  for (int base = first; base < end; base += kDepth) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const int block = base + d;
      if (block < end) {
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
          for (int i = 0; i < kTiles; ++i) {
            MmaBlock(acc[i][j], weights[d][i], x[d % kInputDepth][j]);
          }
        }
        if (block + kDepth < end) {
#pragma unroll
          for (int i = 0; i < kTiles; ++i) {
            LoadWeightBlock(weights[d][i], row_tiles[i], block + kDepth);
          }
        }
        if (block + kInputDepth < end) load_inputs(x[d % kInputDepth], block + kInputDepth);
      }
    }
  }
  ptx::GridDependencyLaunch();

  // 4 Add the segments and store.
#pragma unroll
  for (int first_tile = 0; first_tile < kTokenTiles; first_tile += Tile::kRoundTokenTiles) {
    if (first_tile > 0) ptx::SyncThreads();
#pragma unroll
    for (int j = 0; j < Tile::kRoundTokenTiles; ++j) {
      const int token = j * 8 + lane % 4 * 2;
      float* to = sums + (warp * Tile::kRoundTokens + token) * Tile::kSumStride + lane / 4;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const float(&sum)[4] = acc[i][first_tile + j];
        to[i * kTileRows] = sum[0];
        to[i * kTileRows + Tile::kSumStride] = sum[1];
        to[i * kTileRows + 8] = sum[2];
        to[i * kTileRows + Tile::kSumStride + 8] = sum[3];
      }
    }
    ptx::SyncThreads();
    const int first_token = place.first_token + first_tile * 8;
    const int tokens_left = place.num_tokens - first_token;
    const int num_tokens = tokens_left < Tile::kRoundTokens ? tokens_left : Tile::kRoundTokens;
    for (int item = static_cast<int>(threadIdx.x); item < num_tokens * Tile::kRows;
         item += kLinearThreads) {
      const int token = item / Tile::kRows;
      const int row_in_tile = item % Tile::kRows;
      const int row = place.first_row_tile * kTileRows + row_in_tile;
      if (row >= place.num_rows) continue;
      float y[Work::kMatrices];
#pragma unroll
      for (int m = 0; m < Work::kMatrices; ++m) {
        const float* from = sums + token * Tile::kSumStride + m * Tile::kRows + row_in_tile;
        y[m] = 0;
#pragma unroll
        for (int s = 0; s < kSegments; ++s) {
          y[m] += from[s * Tile::kRoundTokens * Tile::kSumStride];
        }
      }
      work.Store(place, first_token + token, row, y);
    }
  }
}

// grid: row groups of kRowTiles tiles by token groups of 8 kTokenTiles.
template <int kRowTiles, int kTokenTiles, typename Work>
cudaError_t LaunchStream(const Work& work, dim3 grid, cudaStream_t stream) {
  using Tile = StreamTile<Work, kRowTiles, kTokenTiles>;
  return ptx::Launch({.grid = grid,
                      .block = dim3(kLinearThreads),
                      .smem_bytes = Tile::kSums * sizeof(float) + work.InputSmemBytes(),
                      .stream = stream},
                     StreamKernel<Work, kRowTiles, kTokenTiles>, work);
}

// --- More than 64 tokens ----------------------------------------------------------------------

// kWarpTiles row tiles a warp, shared out evenly between the matrices.
template <typename Work, int kWarpTiles>
struct TiledTile {
  static constexpr int kRowWarps = 4;
  static constexpr int kTokenWarps = kWarpTiles;
  static constexpr int kThreads = kRowWarps * kTokenWarps * 32;
  static constexpr int kTokenTiles = 8;  // Of 8 tokens, a warp.
  static constexpr int kTokens = kTokenWarps * kTokenTiles * 8;
  static constexpr int kWarpRowTiles = kWarpTiles / Work::kMatrices;
  static constexpr int kRowTiles = kRowWarps * kWarpRowTiles;  // Of each matrix, a CTA.
  static constexpr int kStages = 4;
  static constexpr int kStageBlocks = 2;
  static constexpr int kBlockInputs = kTokens * kBlockCols;  // [token][32 k]
  static constexpr int kStageInputs = kStageBlocks * kBlockInputs;
  static constexpr int kCopies = kStageInputs / 8 / kThreads;  // Of 16 bytes, a thread.
};

template <typename Work, int kWarpTiles>
__global__ void __launch_bounds__((TiledTile<Work, kWarpTiles>::kThreads), kWarpTiles == 1 ? 3 : 1)
    TiledKernel(Work work) {
  using Tile = TiledTile<Work, kWarpTiles>;
  constexpr int kTokenTiles = Tile::kTokenTiles;
  constexpr int kDepth = Tile::kStageBlocks;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int row_warp = thread / 32 / Tile::kTokenWarps;
  const int token_warp = thread / 32 % Tile::kTokenWarps;
  ptx::SmemArena arena;
  Bf16* stages = arena.Take<Bf16>(Tile::kStages * Tile::kStageInputs, 128);

  if constexpr (Work::kWaitsFirst) ptx::GridDependencyWait();
  // Neighbours share their weights, so that these come from memory once and then from L2.
  const auto place = work.Locate(static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.x),
                                 Tile::kRowTiles, Tile::kTokens);
  if constexpr (Work::kWaitsFirst) {
    if (place.first_token >= place.num_tokens) return;
  }

  // 1 Ask for the first weights.
  const int num_col_blocks = static_cast<int>(NumColBlocks(work.cols));
  const int first_row_tile = place.first_row_tile + row_warp * Tile::kWarpRowTiles;
  const uint4* row_tiles[kWarpTiles];
#pragma unroll
  for (int i = 0; i < kWarpTiles; ++i) {
    row_tiles[i] = RowTileOfLane(place.matrices[i / Tile::kWarpRowTiles],
                                 first_row_tile + i % Tile::kWarpRowTiles, place.num_rows,
                                 num_col_blocks, lane);
  }
  uint4 weights[kDepth][kWarpTiles][2];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (d < num_col_blocks) {
#pragma unroll
      for (int i = 0; i < kWarpTiles; ++i) LoadWeightBlock(weights[d][i], row_tiles[i], d);
    }
  }

  // 2 Wait for the activations and fill the stages but one. Eight threads copy 64 bytes of two
  // tokens next to each other in shared memory.
  if constexpr (!Work::kWaitsFirst) ptx::GridDependencyWait();
  const auto inputs = work.Inputs(place, arena);
  constexpr int kTokensAtOnce = Tile::kThreads / (4 * Tile::kStageBlocks);
  static_assert(Tile::kCopies * kTokensAtOnce == Tile::kTokens);
  const int copy_col = thread / (4 * kTokensAtOnce) * kBlockCols + thread % 4 * 8;
  const int copy_token = thread / 4 % kTokensAtOnce;
  Bf16* const copy_to = stages + thread / (4 * kTokensAtOnce) * Tile::kBlockInputs +
                        copy_token * kBlockCols + thread % 4 * 8;
  int offsets[Tile::kCopies];
#pragma unroll
  for (int i = 0; i < Tile::kCopies; ++i) {
    const int token = place.first_token + copy_token + i * kTokensAtOnce;
    offsets[i] = token < place.num_tokens ? inputs.Offset(token) : -1;
  }
  const auto load_stage = [&](int stage) {
    const int col = stage * Tile::kStageBlocks * kBlockCols + copy_col;
    Bf16* to = copy_to + stage % Tile::kStages * Tile::kStageInputs;
#pragma unroll
    for (int i = 0; i < Tile::kCopies; ++i) {
      const bool valid = offsets[i] >= 0 && col < work.cols;
      const Bf16* from = inputs.base + (valid ? offsets[i] + col : 0);
      ptx::CpAsync16(to + i * kTokensAtOnce * kBlockCols, from, valid);
    }
  };
  const int num_stages = (num_col_blocks + Tile::kStageBlocks - 1) / Tile::kStageBlocks;
#pragma unroll
  for (int s = 0; s + 1 < Tile::kStages; ++s) {
    if (s < num_stages) load_stage(s);
    ptx::CpAsyncCommit();
  }

  // 3 Go up k. Where a segment ends, its sum joins the total.
  float total[kWarpTiles][kTokenTiles][4] = {};
  float acc[kWarpTiles][kTokenTiles][4] = {};
  int segment = 0;
  int segment_end = SegmentBegin(1, num_col_blocks);
  for (int stage = 0; stage < num_stages; ++stage) {
    ptx::CpAsyncWait<Tile::kStages - 2>();
    ptx::SyncThreads();
    if (stage + Tile::kStages - 1 < num_stages) load_stage(stage + Tile::kStages - 1);
    ptx::CpAsyncCommit();
    const Bf16* stage_inputs = stages + stage % Tile::kStages * Tile::kStageInputs +
                               token_warp * kTokenTiles * 8 * kBlockCols + lane * 8;
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const int block = stage * kDepth + d;
      if (block < num_col_blocks) {
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j) {
          const uint4 x = *reinterpret_cast<const uint4*>(stage_inputs + d * Tile::kBlockInputs +
                                                          j * 8 * kBlockCols);
#pragma unroll
          for (int i = 0; i < kWarpTiles; ++i) MmaBlock(acc[i][j], weights[d][i], x);
        }
        if (block + kDepth < num_col_blocks) {
#pragma unroll
          for (int i = 0; i < kWarpTiles; ++i) {
            LoadWeightBlock(weights[d][i], row_tiles[i], block + kDepth);
          }
        }
        // Segments without a block (fewer than 8 blocks in all) would add zero.
        while (segment_end <= block) segment_end = SegmentBegin(++segment + 1, num_col_blocks);
        if (block + 1 == segment_end) {
#pragma unroll
          for (int i = 0; i < kWarpTiles; ++i) {
#pragma unroll
            for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
              for (int r = 0; r < 4; ++r) {
                total[i][j][r] += acc[i][j][r];
                acc[i][j][r] = 0;
              }
            }
          }
        }
      }
    }
  }
  ptx::GridDependencyLaunch();

  // 4 Store.
#pragma unroll
  for (int i = 0; i < Tile::kWarpRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int row = (first_row_tile + i) * kTileRows + lane / 4 + r / 2 * 8;
        const int token =
            place.first_token + (token_warp * kTokenTiles + j) * 8 + lane % 4 * 2 + r % 2;
        if (row < place.num_rows && token < place.num_tokens) {
          float y[Work::kMatrices];
#pragma unroll
          for (int m = 0; m < Work::kMatrices; ++m) y[m] = total[m * Tile::kWarpRowTiles + i][j][r];
          work.Store(place, token, row, y);
        }
      }
    }
  }
}

// grid: token groups of 64 kWarpTiles by row groups of 4 kWarpTiles / kMatrices tiles.
template <int kWarpTiles, typename Work>
cudaError_t LaunchTiled(const Work& work, dim3 grid, cudaStream_t stream) {
  using Tile = TiledTile<Work, kWarpTiles>;
  return ptx::Launch(
      {.grid = grid,
       .block = dim3(Tile::kThreads),
       .smem_bytes = Tile::kStages * Tile::kStageInputs * sizeof(Bf16) + work.InputSmemBytes(),
       .stream = stream},
      TiledKernel<Work, kWarpTiles>, work);
}

// --- Whole matrices ---------------------------------------------------------------------------

// A packed weight as kernels see it.
struct WeightView {
  const uint4* data = nullptr;
  int num_rows = 0;

  int num_row_tiles() const { return static_cast<int>(NumRowTiles(num_rows)); }
};

inline WeightView ViewOf(const PackedWeight& weight) {
  FACET_CHECK(weight.format == WeightFormat::kBf16);
  return {static_cast<const uint4*>(weight.data.data()), static_cast<int>(weight.rows)};
}

// Rows of a row-major activation.
struct DenseInputs {
  const Bf16* base = nullptr;
  int stride = 0;

  FACET_DEVICE int Offset(int token) const { return token * stride; }
};

// All tokens by up to three weights, whose rows follow each other in the output; or, where the
// epilogue takes two sums, by weights[0] and weights[1] side by side. An Epilogue has kMatrices,
// kRowTilesMax and Store(token, column, y).
template <typename EpilogueType>
struct DenseWork {
  using Epilogue = EpilogueType;
  static constexpr int kMatrices = Epilogue::kMatrices;
  static constexpr int kRowTilesMax = Epilogue::kRowTilesMax;
  static constexpr bool kWaitsFirst = false;

  WeightView weights[3];
  DenseInputs input;
  int num_tokens = 0;
  int cols = 0;
  Epilogue epilogue;

  FACET_DEVICE LinearPlace<kMatrices> Locate(int row_group,
                                             int token_group,
                                             int row_tiles,
                                             int tokens) const {
    LinearPlace<kMatrices> place;
    place.first_token = token_group * tokens;
    place.num_tokens = num_tokens;
    place.num_rows = weights[0].num_rows;
    place.matrices[0] = weights[0].data;
    if constexpr (kMatrices == 2) {
      place.matrices[1] = weights[1].data;
    } else {
#pragma unroll
      for (int next = 1; next < 3; ++next) {
        const int groups = (place.num_rows + row_tiles * kTileRows - 1) / (row_tiles * kTileRows);
        if (row_group < groups || weights[next].data == nullptr) break;
        row_group -= groups;
        place.first_column += place.num_rows;
        place.num_rows = weights[next].num_rows;
        place.matrices[0] = weights[next].data;
      }
    }
    place.first_row_tile = row_group * row_tiles;
    return place;
  }

  FACET_DEVICE DenseInputs Inputs(const LinearPlace<kMatrices>&, ptx::SmemArena&) const {
    return input;
  }

  FACET_DEVICE void Store(const LinearPlace<kMatrices>& place,
                          int token,
                          int row,
                          const float (&y)[kMatrices]) const {
    epilogue.Store(token, place.first_column + row, y);
  }

  size_t InputSmemBytes() const { return 0; }

  // CTAs along the rows if each takes row_tiles tiles of a matrix.
  unsigned NumRowGroups(int row_tiles) const {
    int groups = 0;
    for (int i = 0; i < (kMatrices == 2 ? 1 : 3); ++i) {
      groups += CeilDiv(weights[i].num_row_tiles(), row_tiles);
    }
    return static_cast<unsigned>(groups);
  }
};

// A dense work without its weights; what says which op's views are wrong.
template <typename Epilogue>
DenseWork<Epilogue> MakeDenseWork(
    const char* what, const void* x, int64_t num_tokens, int64_t cols, const Epilogue& epilogue) {
  FACET_CHECK_EQ(cols % 8, 0) << what << ": the columns of a weight must be a multiple of 8";
  FACET_CHECK_EQ(reinterpret_cast<uintptr_t>(x) % 16, uintptr_t{0}) << what;
  FACET_CHECK_LE(num_tokens * cols, int64_t{INT32_MAX}) << what;
  return {.weights = {},
          .input = {static_cast<const Bf16*>(x), static_cast<int>(cols)},
          .num_tokens = static_cast<int>(num_tokens),
          .cols = static_cast<int>(cols),
          .epilogue = epilogue};
}

// Row tiles for a CTA of StreamKernel. Wide CTAs read the activations fewer times, narrow ones
// fill the machine: the widest that leaves two CTAs for an SM. Up to 16 tokens the activations are
// at most half the bytes of two row tiles, and no more is built.
template <typename Work>
int ChooseRowTiles(const Work& work, int token_tiles, int num_sms) {
  int row_tiles = std::min(Work::kRowTilesMax, token_tiles <= 2 ? 2 : 4) / Work::kMatrices;
  while (row_tiles > 1 && work.NumRowGroups(row_tiles) < static_cast<unsigned>(2 * num_sms)) {
    row_tiles /= 2;
  }
  return std::max(row_tiles, 1);
}

template <int kTokenTiles, typename Work>
cudaError_t LaunchStreamTokens(const Work& work, int num_sms, cudaStream_t stream) {
  constexpr int kRowTilesMax =
      std::min(Work::kRowTilesMax, kTokenTiles <= 2 ? 2 : 4) / Work::kMatrices;
  const int row_tiles = ChooseRowTiles(work, kTokenTiles, num_sms);
  const dim3 grid(work.NumRowGroups(row_tiles));
  if constexpr (kRowTilesMax >= 4) {
    if (row_tiles == 4) return LaunchStream<4, kTokenTiles>(work, grid, stream);
  }
  if constexpr (kRowTilesMax >= 2) {
    if (row_tiles == 2) return LaunchStream<2, kTokenTiles>(work, grid, stream);
  }
  return LaunchStream<1, kTokenTiles>(work, grid, stream);
}

// Enqueues a dense work: the one place where instances are chosen. Bits do not depend on the
// choice.
template <typename Work>
cudaError_t LaunchDense(const Work& work, int num_sms, cudaStream_t stream) {
  const int num_tokens = work.num_tokens;
  if (num_tokens <= 8) return LaunchStreamTokens<1>(work, num_sms, stream);
  if (num_tokens <= 16) return LaunchStreamTokens<2>(work, num_sms, stream);
  if (num_tokens <= 32) return LaunchStreamTokens<4>(work, num_sms, stream);
  if (num_tokens <= kStreamTokensMax) return LaunchStreamTokens<8>(work, num_sms, stream);
  const auto grid = [&](int tokens, int row_tiles) {
    return dim3(static_cast<unsigned>(CeilDiv(num_tokens, tokens)), work.NumRowGroups(row_tiles));
  };
  const dim3 large = grid(TiledTile<Work, 2>::kTokens, TiledTile<Work, 2>::kRowTiles);
  if constexpr (Work::kMatrices == 1) {
    if (large.x * large.y < static_cast<unsigned>(num_sms)) {
      const dim3 small = grid(TiledTile<Work, 1>::kTokens, TiledTile<Work, 1>::kRowTiles);
      return LaunchTiled<1>(work, small, stream);
    }
  }
  return LaunchTiled<2>(work, large, stream);
}

// --- out[token, column] = round(y) ------------------------------------------------------------

struct StoreRounded {
  static constexpr int kMatrices = 1;
  static constexpr int kRowTilesMax = 4;

  Bf16* out = nullptr;
  int64_t stride = 0;

  FACET_DEVICE void Store(int token, int column, const float (&y)[1]) const {
    out[token * stride + column] = ToBf16(y[0]);
  }
};

// Its instances are in projections.cu, for all ops.
cudaError_t LaunchLinear(const DenseWork<StoreRounded>& work, int num_sms, cudaStream_t stream);

}  // namespace facet::kernels
