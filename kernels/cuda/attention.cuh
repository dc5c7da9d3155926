// What one block does with tiles of keys and values; attention.cu draws it and says in which order
// its sums run. Shapes are template parameters, so that registers hold every fragment.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/dtype.h"

namespace facet::kernels::attention {

inline constexpr int kTileKeys = 64;
inline constexpr int kSplitKeys = 256;
inline constexpr int kSplitTiles = kSplitKeys / kTileKeys;
// Sixteen keys of a tile are one warp's: the rows of one mma.
inline constexpr int kKeyParts = kTileKeys / 16;

// A block of kWarps warps (4 or 8) for 8 * kColumnTiles queries of one KV head, with room for
// kStages tiles of keys and as many of values. kBlocksPerSm bounds the registers.
template <int kHeadDimT, int kColumnTilesT, int kWarpsT, int kStagesT, int kBlocksPerSmT>
struct AttendShape {
  static constexpr int kHeadDim = kHeadDimT;
  static constexpr int kColumnTiles = kColumnTilesT;
  static constexpr int kWarps = kWarpsT;
  static constexpr int kStages = kStagesT;
  static constexpr int kBlocksPerSm = kBlocksPerSmT;

  static constexpr int kThreads = kWarps * 32;
  static constexpr int kColumns = kColumnTiles * 8;
  static constexpr int kRowChunks = kHeadDim / 8;  // 16-byte pieces of a key, value or query.
  static constexpr int kSteps = kHeadDim / 16;     // Of the sum over head_dim; tiles of outputs.
  // Scores: warp w has keys 16 (w % 4) .. + 15 and this many column tiles.
  static constexpr int kScoreTiles = kColumnTiles / (kWarps / kKeyParts);
  // Outputs: warp w has this many tiles of 16 dims, and all columns. Warps beyond head_dim rest.
  static constexpr int kDimTiles = kSteps > kWarps ? kSteps / kWarps : 1;

  static constexpr int kTileElements = kTileKeys * kHeadDim;
  // What a split leaves in scratch: every thread's part of O^T, then maxima and sums.
  static constexpr int kFragmentFloats = kDimTiles * kColumnTiles * 4;
  static constexpr int kPartialFloats = kFragmentFloats * kThreads + 2 * kColumns;

  // What Tiles takes.
  static constexpr size_t kSmemBytes =
      sizeof(Bf16) * (kColumns * kHeadDim + 2 * kStages * kTileElements + kTileKeys * kColumns) +
      sizeof(float) * kColumns * (kKeyParts + 5) + sizeof(int32_t) * kColumns;

  static_assert(kWarps % kKeyParts == 0 && kColumnTiles % (kWarps / kKeyParts) == 0);
  static_assert(kScoreTiles == 1 || kScoreTiles % 2 == 0);
};

// The shared memory of a block.
template <typename Shape>
struct Tiles {
  FACET_DEVICE Tiles() {
    ptx::SmemArena arena;
    queries = arena.Take<Bf16>(Shape::kColumns * Shape::kHeadDim, 128);
    keys = arena.Take<Bf16>(Shape::kStages * Shape::kTileElements, 128);
    values = arena.Take<Bf16>(Shape::kStages * Shape::kTileElements, 128);
    weights = arena.Take<Bf16>(kTileKeys * Shape::kColumns, 128);
    parts = arena.Take<float>(kKeyParts * Shape::kColumns);
    factor = arena.Take<float>(Shape::kColumns);
    part_factor = arena.Take<float>(Shape::kColumns);
    max = arena.Take<float>(Shape::kColumns);
    total_max = arena.Take<float>(Shape::kColumns);
    total_sum = arena.Take<float>(Shape::kColumns);
    positions = arena.Take<int32_t>(Shape::kColumns);
  }

  Bf16* queries;       // [columns][head_dim]
  Bf16* keys;          // [stages][64][head_dim]
  Bf16* values;        // [stages][64][head_dim]
  Bf16* weights;       // [64][columns]: P^T, the softmax's numerators.
  float* parts;        // [4][columns]: what each sixteen keys have to say about a maximum or a sum.
  float* factor;       // [columns]: by which the sums so far shrink.
  float* part_factor;  // [columns]: by which a split's sums shrink when it joins the total.
  float* max;          // [columns]: of the split.
  float* total_max;    // [columns]: of all splits so far; thread c alone uses column c.
  float* total_sum;    // [columns]
  int32_t* positions;  // [columns]: of the column's query; -1 where there is none.
};

// Place of a 16-byte chunk in rows of kRowChunks: chunks change places within 128 bytes, so that
// the same chunk of eight rows lies in different banks.
template <int kRowChunks>
FACET_DEVICE int Swizzled(int row, int chunk) {
  static_assert((kRowChunks & (kRowChunks - 1)) == 0);
  constexpr int kTurned = kRowChunks < 8 ? kRowChunks : 8;
  const int turn = row / (8 / kTurned) % kTurned;
  // Of the chunks of a long row only eight places differ; the rest is an offset that loops unroll.
  return (row * kRowChunks + chunk / kTurned * kTurned + (chunk % kTurned ^ turn)) * 8;
}

FACET_DEVICE int Lane() { return static_cast<int>(threadIdx.x % 32); }

FACET_DEVICE int Warp() { return static_cast<int>(threadIdx.x / 32); }

// --- Loads --------------------------------------------------------------------------------------

// Where a sequence's keys (or values) of one KV head lie.
struct KeyRows {
  const std::byte* base;  // Of the head in block 0.
  int64_t block_stride;   // Bytes.
  const int32_t* blocks;
  int32_t first_block;
  int32_t end;  // Positions stored so far.
};

// Begins to copy one tile. What is not stored reads as zeros: its memory may hold anything, and
// zero times anything but a number is not zero.
template <typename Shape>
FACET_DEVICE void LoadTile(const KeyRows& rows, int tile, Bf16* shared) {
#pragma unroll
  for (int b = 0; b < kTileKeys / kBlockTokens; ++b) {
    const int first = tile * kTileKeys + b * kBlockTokens;
    const int index = first / kBlockTokens - rows.first_block;
    const bool present = index >= 0 && first < rows.end;
    const std::byte* source =
        present ? rows.base + rows.blocks[index] * rows.block_stride : rows.base;
#pragma unroll
    for (int c = static_cast<int>(threadIdx.x); c < kBlockTokens * Shape::kRowChunks;
         c += Shape::kThreads) {
      const int row = c / Shape::kRowChunks;
      ptx::CpAsync16(
          shared + Swizzled<Shape::kRowChunks>(b * kBlockTokens + row, c % Shape::kRowChunks),
          source + c * 16, present && first + row < rows.end);
    }
  }
}

// --- Scores and their softmax -------------------------------------------------------------------

// S^T = K Q^T of this warp's sixteen keys and its columns; the sum over head_dim runs in mma steps
// of 16, ascending.
template <typename Shape>
FACET_DEVICE void Scores(const Bf16* keys, const Bf16* queries, float (&s)[Shape::kScoreTiles][4]) {
  constexpr int kChunks = Shape::kRowChunks;
  const int lane = Lane();
  const int key = Warp() % kKeyParts * 16 + lane % 16;
  const int column = Warp() / kKeyParts * Shape::kScoreTiles * 8 + lane % 8;
#pragma unroll
  for (int j = 0; j < Shape::kScoreTiles; ++j) {
#pragma unroll
    for (float& score : s[j]) score = 0;
  }
#pragma unroll
  for (int step = 0; step < Shape::kSteps; ++step) {
    uint32_t a[4];
    ptx::LdMatrixX4(a, keys + Swizzled<kChunks>(key, 2 * step + lane / 16));
    const int chunk = 2 * step + lane / 8 % 2;
    if constexpr (Shape::kScoreTiles == 1) {
      uint32_t b[2];
      ptx::LdMatrixX2(b, queries + Swizzled<kChunks>(column, chunk));
      ptx::MmaBf16(s[0], a, b);
    } else {
#pragma unroll
      for (int j = 0; j < Shape::kScoreTiles; j += 2) {
        uint32_t b[4];
        ptx::LdMatrixX4(b, queries + Swizzled<kChunks>(column + 8 * (j + lane / 16), chunk));
        const uint32_t left[2] = {b[0], b[1]};
        const uint32_t right[2] = {b[2], b[3]};
        ptx::MmaBf16(s[j], a, left);
        ptx::MmaBf16(s[j + 1], a, right);
      }
    }
  }
}

// Scores of keys that a column may not see become -infinity.
template <typename Shape>
FACET_DEVICE void Mask(const int32_t* positions,
                       int tile,
                       int32_t window,
                       float (&s)[Shape::kScoreTiles][4]) {
  const int key = tile * kTileKeys + Warp() % kKeyParts * 16 + Lane() / 4;
  const int column = Warp() / kKeyParts * Shape::kScoreTiles * 8 + Lane() % 4 * 2;
#pragma unroll
  for (int j = 0; j < Shape::kScoreTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int position = positions[column + 8 * j + e % 2];
      const int key_of_score = key + 8 * (e / 2);
      const bool visible =
          key_of_score <= position && (window == 0 || key_of_score > position - window);
      if (!visible) s[j][e] = -INFINITY;
    }
  }
}

// A thread's columns in Scores: two of each column tile.
template <typename Shape>
using ColumnPairs = float[Shape::kScoreTiles][2];

FACET_DEVICE float MaxOverRows(float value) {
  for (int mask = 4; mask <= 16; mask *= 2) value = fmaxf(value, ptx::ShuffleXor(value, mask));
  return value;
}

FACET_DEVICE float SumOverRows(float value) {
  for (int mask = 4; mask <= 16; mask *= 2) value += ptx::ShuffleXor(value, mask);
  return value;
}

// Writes the maximum of this warp's keys for its columns.
template <typename Shape>
FACET_DEVICE void PublishMaxima(const float (&s)[Shape::kScoreTiles][4], float* parts) {
  const int column = Warp() / kKeyParts * Shape::kScoreTiles * 8 + Lane() % 4 * 2;
  float* part = parts + Warp() % kKeyParts * Shape::kColumns + column;
#pragma unroll
  for (int j = 0; j < Shape::kScoreTiles; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float max = MaxOverRows(fmaxf(s[j][c], s[j][c + 2]));
      if (Lane() < 4) part[8 * j + c] = max;
    }
  }
}

// Infinities must not meet: where nothing was seen yet, everything is measured from 0.
FACET_DEVICE float Origin(float max) { return max == -INFINITY ? 0.0F : max; }

FACET_DEVICE float ExpFrom(float origin, float x) {
  constexpr float kLog2E = 1.44269504F;
  return ptx::Exp2((x - origin) * kLog2E);
}

// Online softmax: takes the tile's maxima into max, writes e^(s - max) rounded to bf16 and the
// factor by which earlier sums shrink, and adds to this thread's share of the sums the rounded
// weights, so that what multiplies the values adds up to one. A tile that a column does not see
// has factor 1 and weights 0, or factor 0 before anything was seen.
template <typename Shape>
FACET_DEVICE void Softmax(const float (&s)[Shape::kScoreTiles][4],
                          const Tiles<Shape>& tiles,
                          ColumnPairs<Shape>& max,
                          ColumnPairs<Shape>& sum) {
  const int key_part = Warp() % kKeyParts;
  const int tile0 = Warp() / kKeyParts * Shape::kScoreTiles;
  const int column = tile0 * 8 + Lane() % 4 * 2;
  const int key = key_part * 16 + Lane() / 4;
#pragma unroll
  for (int j = 0; j < Shape::kScoreTiles; ++j) {
    float weight[2][2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float new_max = max[j][c];
#pragma unroll
      for (int part = 0; part < kKeyParts; ++part) {
        new_max = fmaxf(new_max, tiles.parts[part * Shape::kColumns + column + 8 * j + c]);
      }
      const float origin = Origin(new_max);
      const float factor = ExpFrom(origin, max[j][c]);
      max[j][c] = new_max;
      weight[0][c] = ExpFrom(origin, s[j][c]);
      weight[1][c] = ExpFrom(origin, s[j][c + 2]);
      sum[j][c] = sum[j][c] * factor + (RoundToBf16(weight[0][c]) + RoundToBf16(weight[1][c]));
      if (key_part == 0 && Lane() < 4) tiles.factor[column + 8 * j + c] = factor;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int place = Swizzled<Shape::kColumnTiles>(key + 8 * half, tile0 + j) + Lane() % 4 * 2;
      *reinterpret_cast<uint32_t*>(tiles.weights + place) =
          ptx::PackBf16(weight[half][0], weight[half][1]);
    }
  }
}

// --- Values -------------------------------------------------------------------------------------

// A thread's part of O^T: for each of its dim tiles and each column tile rows g and g + 8 of
// columns 2t and 2t + 1, with g = lane / 4 and t = lane % 4.
template <typename Shape>
using Fragment = float[Shape::kDimTiles][Shape::kColumnTiles][4];

template <typename Shape>
FACET_DEVICE bool HasDims() {
  return Warp() * Shape::kDimTiles < Shape::kSteps;
}

template <typename Shape>
FACET_DEVICE void Clear(Fragment<Shape>& o) {
#pragma unroll
  for (int d = 0; d < Shape::kDimTiles; ++d) {
#pragma unroll
    for (int n = 0; n < Shape::kColumnTiles; ++n) {
#pragma unroll
      for (float& sum : o[d][n]) sum = 0;
    }
  }
}

// O^T = O^T factor + V^T P^T; the sum over the tile's keys runs in mma steps of 16, ascending.
template <typename Shape>
FACET_DEVICE void AddValues(const Bf16* values, const Tiles<Shape>& tiles, Fragment<Shape>& o) {
  if (!HasDims<Shape>()) return;
  const int lane = Lane();
#pragma unroll
  for (int n = 0; n < Shape::kColumnTiles; ++n) {
    const float* factor = tiles.factor + 8 * n + lane % 4 * 2;
#pragma unroll
    for (int d = 0; d < Shape::kDimTiles; ++d) {
#pragma unroll
      for (int e = 0; e < 4; ++e) o[d][n][e] *= factor[e % 2];
    }
  }
#pragma unroll
  for (int keys = 0; keys < kTileKeys; keys += 32) {
    uint32_t b[Shape::kColumnTiles][4];
#pragma unroll
    for (int n = 0; n < Shape::kColumnTiles; ++n) {
      ptx::LdMatrixX4Trans(b[n], tiles.weights + Swizzled<Shape::kColumnTiles>(keys + lane, n));
    }
#pragma unroll
    for (int d = 0; d < Shape::kDimTiles; ++d) {
      const int chunk = 2 * (Warp() * Shape::kDimTiles + d) + lane / 8 % 2;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t a[4];
        const int key = keys + 16 * half + lane % 8 + lane / 16 * 8;
        ptx::LdMatrixX4Trans(a, values + Swizzled<Shape::kRowChunks>(key, chunk));
#pragma unroll
        for (int n = 0; n < Shape::kColumnTiles; ++n) {
          const uint32_t sixteen_keys[2] = {b[n][2 * half], b[n][2 * half + 1]};
          ptx::MmaBf16(o[d][n], a, sixteen_keys);
        }
      }
    }
  }
}

// --- Splits -------------------------------------------------------------------------------------

// Largest score of a column and the sum of its weights measured from it.
struct Statistics {
  float max = -INFINITY;
  float sum = 0;
};

struct FoldFactors {
  float total;
  float part;
};

// The one way in which a split joins those before it:
//   m = max(m_total, m_part), a = e^(m_total - m), b = e^(m_part - m)
//   l_total = l_total a + l_part b,  O_total = O_total a + O_part b.
// A split of which nothing is visible has b = 0 and sums 0; before the first visible one a = 0.
FACET_DEVICE FoldFactors Fold(Statistics& total, const Statistics& part) {
  const float max = fmaxf(total.max, part.max);
  const float origin = Origin(max);
  const FoldFactors factors{ExpFrom(origin, total.max), ExpFrom(origin, part.max)};
  total.max = max;
  total.sum = total.sum * factors.total + part.sum * factors.part;
  return factors;
}

FACET_DEVICE float Folded(float total, float part, const FoldFactors& factors) {
  return total * factors.total + part * factors.part;
}

// Puts the split's statistics where thread c reads those of column c. Ends with a barrier.
template <typename Shape>
FACET_DEVICE void PublishStatistics(const ColumnPairs<Shape>& max,
                                    const ColumnPairs<Shape>& sum,
                                    const Tiles<Shape>& tiles) {
  const int key_part = Warp() % kKeyParts;
  const int column = Warp() / kKeyParts * Shape::kScoreTiles * 8 + Lane() % 4 * 2;
#pragma unroll
  for (int j = 0; j < Shape::kScoreTiles; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float part = SumOverRows(sum[j][c]);
      if (Lane() >= 4) continue;
      tiles.parts[key_part * Shape::kColumns + column + 8 * j + c] = part;
      if (key_part == 0) tiles.max[column + 8 * j + c] = max[j][c];
    }
  }
  ptx::SyncThreads();
}

template <typename Shape>
FACET_DEVICE Statistics StatisticsOf(const Tiles<Shape>& tiles, int column) {
  float sum = tiles.parts[column];
#pragma unroll
  for (int part = 1; part < kKeyParts; ++part) sum += tiles.parts[part * Shape::kColumns + column];
  return {tiles.max[column], sum};
}

// Folds the split that PublishStatistics told of into the block's total.
template <typename Shape>
FACET_DEVICE void FoldIntoTotal(const Tiles<Shape>& tiles,
                                const Fragment<Shape>& o,
                                Fragment<Shape>& total) {
  if (threadIdx.x < Shape::kColumns) {
    const int column = static_cast<int>(threadIdx.x);
    Statistics all{tiles.total_max[column], tiles.total_sum[column]};
    const FoldFactors factors = Fold(all, StatisticsOf(tiles, column));
    tiles.total_max[column] = all.max;
    tiles.total_sum[column] = all.sum;
    tiles.factor[column] = factors.total;
    tiles.part_factor[column] = factors.part;
  }
  ptx::SyncThreads();
#pragma unroll
  for (int n = 0; n < Shape::kColumnTiles; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int column = 8 * n + Lane() % 4 * 2 + c;
      const FoldFactors factors{tiles.factor[column], tiles.part_factor[column]};
#pragma unroll
      for (int d = 0; d < Shape::kDimTiles; ++d) {
        total[d][n][c] = Folded(total[d][n][c], o[d][n][c], factors);
        total[d][n][c + 2] = Folded(total[d][n][c + 2], o[d][n][c + 2], factors);
      }
    }
  }
}

// Element e of this thread's fragment in a partial result. Lanes of one column are neighbours:
// where few columns are in use, what is written still fills whole sectors.
template <typename Shape>
FACET_DEVICE int PartialPlace(int dim_tile, int column_tile, int e) {
  const int element = (dim_tile * Shape::kColumnTiles + column_tile) * 4 + e;
  return element * Shape::kThreads + Warp() * 32 + Lane() % 4 * 8 + Lane() / 4;
}

// Writes the split that PublishStatistics told of.
template <typename Shape>
FACET_DEVICE void StorePartial(const Tiles<Shape>& tiles,
                               const Fragment<Shape>& o,
                               int num_columns,
                               float* partial) {
  if (threadIdx.x < Shape::kColumns) {
    const int column = static_cast<int>(threadIdx.x);
    const Statistics split = StatisticsOf(tiles, column);
    float* statistics = partial + Shape::kFragmentFloats * Shape::kThreads;
    statistics[column] = split.max;
    statistics[Shape::kColumns + column] = split.sum;
  }
  if (!HasDims<Shape>()) return;
#pragma unroll
  for (int d = 0; d < Shape::kDimTiles; ++d) {
#pragma unroll
    for (int n = 0; n < Shape::kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (8 * n + Lane() % 4 * 2 + e % 2 >= num_columns) continue;
        partial[PartialPlace<Shape>(d, n, e)] = o[d][n][e];
      }
    }
  }
}

// Folds num_splits partial results, ascending, for this thread's dim tiles first_dim_tile ..
// + kCount - 1; sums are those of its columns.
template <typename Shape, int kCount>
FACET_DEVICE void FoldPartials(const float* partial,
                               int num_splits,
                               int num_columns,
                               int first_dim_tile,
                               float (&total)[kCount][Shape::kColumnTiles][4],
                               float (&sums)[Shape::kColumnTiles][2]) {
  Statistics all[Shape::kColumnTiles][2];
#pragma unroll
  for (int d = 0; d < kCount; ++d) {
#pragma unroll
    for (int n = 0; n < Shape::kColumnTiles; ++n) {
#pragma unroll
      for (float& sum : total[d][n]) sum = 0;
    }
  }
  // Loads of several splits are under way together; the pragma is all that reads it.
  [[maybe_unused]] constexpr int kTogether = kCount * Shape::kColumnTiles <= 2 ? 8 : 1;
#pragma unroll kTogether
  for (int split = 0; split < num_splits; ++split) {
    const float* statistics = partial + Shape::kFragmentFloats * Shape::kThreads;
#pragma unroll
    for (int n = 0; n < Shape::kColumnTiles; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = 8 * n + Lane() % 4 * 2 + c;
        if (column >= num_columns) continue;
        const FoldFactors factors =
            Fold(all[n][c], {statistics[column], statistics[Shape::kColumns + column]});
#pragma unroll
        for (int d = 0; d < kCount; ++d) {
#pragma unroll
          for (int e = c; e < 4; e += 2) {
            total[d][n][e] = Folded(
                total[d][n][e], partial[PartialPlace<Shape>(first_dim_tile + d, n, e)], factors);
          }
        }
      }
    }
    partial += Shape::kPartialFloats;
  }
#pragma unroll
  for (int n = 0; n < Shape::kColumnTiles; ++n) {
    sums[n][0] = all[n][0].sum;
    sums[n][1] = all[n][1].sum;
  }
}

}  // namespace facet::kernels::attention
