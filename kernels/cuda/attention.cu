// Paged attention: one kernel makes q, k and v ready and stores k and v; a second one attends.
//
// A block of the cache holds K [num_kv_heads][16 tokens][head_dim], then V the same, bf16.
//
// Attend serves decode and prefill alike, with the operands of both products swapped so that a
// single query wastes 7 columns and not 15 rows. The queries of one sequence that share a KV head,
// (token, head in group) token by token, are the columns:
//
//                  8 columns each                            8 columns each
//   S^T  64 keys [ w0 | w0 | .. ]       P^T = e^(S^T - m)    O^T  head_dim [ w0 | w0 | .. ]
//                [ w1 | w1 | .. ]       in bf16, through                   [ w1 | w1 | .. ]
//                [ w2 | w2 | .. ]       shared memory                      [ w2 | w2 | .. ]
//                [ w3 | w3 | .. ]      ───────────────────►                [ w3 | w3 | .. ]
//   K tile (64 x head_dim) times Q^T                         V tile transposed times P^T
//
// With eight warps, w4 .. w7 have the right half of the columns of S^T, and all share the dims.
// Copies run beside the products: V of a tile lands while its scores are computed, K of a later
// tile while the values are summed.
//
// Order of sums. Tiles of 64 and splits of 256 keys begin at absolute positions. Scores: mma steps
// of 16 dims, ascending. Inside a split: online softmax over its tiles, ascending; a tile's O in
// mma steps of 16 keys, ascending; l for each pair of keys i, i + 8 over the tiles, then over the
// pairs as a butterfly, then over the four sixteens ascending. Splits are folded ascending into
// (O, m, l) by attention::Fold. What a query does not see changes nothing, so a query's bits are a
// function of its position, the window and the cache alone: not of the chunk or the batch it came
// in, nor of which of these ways its splits took:
//   - one split: its O is the result;
//   - in turn: a block walks all splits of its columns and keeps the running total in registers;
//   - side by side: a block for each split writes (O, m, l) to scratch; the last one to arrive
//   folds
//     them, or a third kernel spread over head_dim does where splits are many.
// Decode rows (at most 8 columns) always go side by side, others do when they are too few to fill
// the device.
//
// What is computed where is data, not an argument: a list of entries, made once a step for all
// layers of a geometry, and as many blocks as the next power of two, so that a recorded launch fits
// many steps. Blocks past the end of the list return at once.
//
// Bytes: K and V once for every block of columns and KV head (8 columns in decode: once in all),
// and 4 (head_dim + 2) bytes a column, written and read, for every split that goes side by side.
//
// Sources: online softmax, Milakov and Gimelshein, arXiv:1805.02867; tiles and splits, Dao,
// arXiv:2307.08691, and Flash-Decoding (Dao, Haziza, Massa and Sizov, 2023); swapped operands for
// few queries, NVIDIA TensorRT-LLM XQA.
#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/attention_prepare.cuh"
#include "kernels/cuda/cuda_backend.h"

namespace facet::kernels {
namespace attention {
namespace {

// --- Which block does what ----------------------------------------------------------------------

struct SplitRange {
  int32_t begin;
  int32_t end;
};

// Splits that hold what num_tokens queries from first_position on see.
FACET_ALWAYS_INLINE SplitRange SplitsOf(int32_t first_position,
                                        int32_t num_tokens,
                                        int32_t window) {
  const int32_t oldest = first_position - window + 1;
  return {.begin = window == 0 || oldest < 0 ? 0 : oldest / kSplitKeys,
          .end = (first_position + num_tokens - 1) / kSplitKeys + 1};
}

// More splits than this are folded by a kernel of their own.
constexpr int kFoldHereMax = 8;

struct AttendParams {
  const Bf16* q;  // As PrepareQkv left it.
  int64_t q_width;
  Bf16* out;
  const DeviceAttentionRow* rows;
  const int32_t* blocks;
  const std::byte* kv;
  int64_t block_stride;
  int32_t num_kv_heads;
  int32_t group;
  int32_t window;
  bool side_by_side;
  float* partials;     // [items][Shape::kPartialFloats]
  uint32_t* counters;  // [slots], zeros between launches.
  const AttentionEntry* entries;
  int32_t num_entries;  // Without the end.
};

// What one block computes; equal in all its threads.
struct BlockWork {
  DeviceAttentionRow row;
  int32_t kv_head;
  int32_t first_column;
  int32_t num_columns;
  int32_t first_position;  // Of the first column's query.
  int32_t last_position;
  int32_t slot;
  int32_t first_partial;  // Of the first split it sees.
  SplitRange row_splits;
  SplitRange splits;  // Those that its columns see.
};

template <typename Shape>
FACET_DEVICE BlockWork WorkAt(const AttendParams& params, const AttentionEntry& entry, int32_t slot) {
  BlockWork work;
  work.row = params.rows[entry.row];
  const auto first_position = static_cast<int32_t>(work.row.first_position);
  const int32_t num_columns = work.row.num_tokens * params.group;
  const int32_t num_groups = (num_columns + Shape::kColumns - 1) / Shape::kColumns;
  work.slot = entry.first_slot + slot;
  work.kv_head = slot / num_groups;
  // Later columns see more: they go first.
  work.first_column = (num_groups - 1 - slot % num_groups) * Shape::kColumns;
  const int32_t columns_left = num_columns - work.first_column;
  work.num_columns = columns_left < Shape::kColumns ? columns_left : Shape::kColumns;
  const int32_t first_token = work.first_column / params.group;
  const int32_t last_token = (work.first_column + work.num_columns - 1) / params.group;
  work.first_position = first_position + first_token;
  work.last_position = first_position + last_token;
  work.row_splits = SplitsOf(first_position, work.row.num_tokens, params.window);
  work.splits = SplitsOf(work.first_position, last_token - first_token + 1, params.window);
  work.first_partial = entry.first_item + slot * (work.row_splits.end - work.row_splits.begin) +
                       (work.splits.begin - work.row_splits.begin);
  return work;
}

// The last entry whose member is at most value.
FACET_DEVICE AttentionEntry FindEntry(const AttendParams& params,
                                 int32_t AttentionEntry::*member,
                                 int32_t value) {
  int32_t low = 0;
  int32_t high = params.num_entries;
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (params.entries[middle].*member <= value) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return params.entries[low];
}

// --- Attend -------------------------------------------------------------------------------------

template <typename Shape>
FACET_DEVICE void LoadQueries(const AttendParams& params, const BlockWork& work, Bf16* shared) {
  for (int c = static_cast<int>(threadIdx.x); c < Shape::kColumns * Shape::kRowChunks;
       c += Shape::kThreads) {
    const int column = c / Shape::kRowChunks;
    const int chunk = c % Shape::kRowChunks;
    const bool valid = column < work.num_columns;
    const int32_t place = work.first_column + (valid ? column : 0);
    const Bf16* query = params.q + (work.row.first_token + place / params.group) * params.q_width +
                        (work.kv_head * params.group + place % params.group) * Shape::kHeadDim;
    ptx::CpAsync16(shared + Swizzled<Shape::kRowChunks>(column, chunk), query + chunk * 8, valid);
  }
}

// out[token, head] = round(O / l) for this thread's dim tiles first_dim_tile .. + kCount - 1.
template <typename Shape, int kCount>
FACET_DEVICE void StoreOut(const AttendParams& params,
                           const BlockWork& work,
                           int first_dim_tile,
                           const float (&o)[kCount][Shape::kColumnTiles][4],
                           const float (&sums)[Shape::kColumnTiles][2]) {
  if (!HasDims<Shape>()) return;
  const int64_t width = static_cast<int64_t>(params.num_kv_heads) * params.group * Shape::kHeadDim;
  const int dim = (Warp() * Shape::kDimTiles + first_dim_tile) * 16 + Lane() / 4;
#pragma unroll
  for (int n = 0; n < Shape::kColumnTiles; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int column = 8 * n + Lane() % 4 * 2 + c;
      if (column >= work.num_columns) continue;
      const int32_t place = work.first_column + column;
      Bf16* out = params.out + (work.row.first_token + place / params.group) * width +
                  (work.kv_head * params.group + place % params.group) * Shape::kHeadDim + dim;
      const float inverse = 1.0F / sums[n][c];
#pragma unroll
      for (int d = 0; d < kCount; ++d) {
        // A sum that has faded to nothing may be 0 of either sign: adding 0 makes it one.
        out[16 * d] = ToBf16(o[d][n][c] * inverse + 0.0F);
        out[16 * d + 8] = ToBf16(o[d][n][c + 2] * inverse + 0.0F);
      }
    }
  }
}

// Whether this block is the last of its slot's splits; all of them are in scratch then.
FACET_DEVICE bool ArriveLast(uint32_t* counter, int num_splits) {
  FACET_SHARED(is_last, bool);
  ptx::ThreadFence();
  ptx::SyncThreads();
  if (threadIdx.x == 0) {
    is_last = ptx::AtomicAdd(counter, 1U) + 1 == static_cast<uint32_t>(num_splits);
    if (is_last) *counter = 0;
  }
  ptx::SyncThreads();
  ptx::ThreadFence();
  return is_last;
}

// Columns of one slot against all its splits in turn, or against one of them.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    Attend(const AttendParams params) {
  constexpr int kStages = Shape::kStages;
  const Tiles<Shape> tiles;
  const auto item = static_cast<int32_t>(blockIdx.x);
  ptx::GridDependencyWait();
  const AttentionEntry entry = FindEntry(params, &AttentionEntry::first_item, item);
  if (entry.row < 0) return;

  int32_t slot = item - entry.first_item;
  int32_t split = 0;
  if (params.side_by_side) {
    const DeviceAttentionRow row = params.rows[entry.row];
    const SplitRange range =
        SplitsOf(static_cast<int32_t>(row.first_position), row.num_tokens, params.window);
    split = range.begin + slot % (range.end - range.begin);
    slot /= range.end - range.begin;
  }
  const BlockWork work = WorkAt<Shape>(params, entry, slot);
  const int32_t num_splits = work.splits.end - work.splits.begin;
  const bool alone = !params.side_by_side || num_splits == 1;
  if (params.side_by_side && (split < work.splits.begin || split >= work.splits.end)) return;
  const int32_t oldest = params.window == 0 ? 0 : work.first_position - params.window + 1;
  int32_t tile_begin = oldest < 0 ? 0 : oldest / kTileKeys;
  int32_t tile_end = work.last_position / kTileKeys + 1;
  if (params.side_by_side) {
    const int32_t split_begin = split * kSplitTiles;
    const int32_t split_end = split_begin + kSplitTiles;
    if (tile_begin < split_begin) tile_begin = split_begin;
    if (tile_end > split_end) tile_end = split_end;
  }

  const auto row_end = static_cast<int32_t>(work.row.first_position) + work.row.num_tokens;
  constexpr int64_t kHeadBytes = int64_t{kBlockTokens} * Shape::kHeadDim * sizeof(Bf16);
  const KeyRows keys{.base = params.kv + work.kv_head * kHeadBytes,
                     .block_stride = params.block_stride,
                     .blocks = params.blocks + work.row.blocks_begin,
                     .first_block = work.row.first_block,
                     .end = row_end};
  enum class Part { kKeys, kValues };
  // Every call makes one group of copies, of nothing past the end, so that waits can count groups.
  const auto load = [&](Part part, Bf16* shared, int32_t tile) {
    if (tile < tile_end) {
      // Not kept between calls: it would cost the registers that the widest shape has not left.
      KeyRows rows = keys;
      if (part == Part::kValues) rows.base += params.num_kv_heads * kHeadBytes;
      LoadTile<Shape>(rows, tile, shared + (tile - tile_begin) % kStages * Shape::kTileElements);
    }
    ptx::CpAsyncCommit();
  };

  // Groups in order: Q and K 0, V 0, K 1, V 1, .. as far as there are stages.
  LoadQueries<Shape>(params, work, tiles.queries);
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) {
    load(Part::kKeys, tiles.keys, tile_begin + stage);
    load(Part::kValues, tiles.values, tile_begin + stage);
  }

  if (threadIdx.x < Shape::kColumns) {
    const auto column = static_cast<int32_t>(threadIdx.x);
    const int32_t token = (work.first_column + column) / params.group;
    tiles.positions[column] =
        column < work.num_columns ? static_cast<int32_t>(work.row.first_position) + token : -1;
    tiles.total_max[column] = -INFINITY;
    tiles.total_sum[column] = 0;
  }
  Fragment<Shape> o;
  Fragment<Shape> total;
  Clear<Shape>(o);
  Clear<Shape>(total);
  ColumnPairs<Shape> max_score;
  ColumnPairs<Shape> sum;
  const auto begin_split = [&] {
#pragma unroll
    for (int j = 0; j < Shape::kScoreTiles; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        max_score[j][c] = -INFINITY;
        sum[j][c] = 0;
      }
    }
  };
  begin_split();

  for (int32_t tile = tile_begin; tile < tile_end; ++tile) {
    const int stage = (tile - tile_begin) % kStages * Shape::kTileElements;

    // Scores, as soon as K is there; V of this tile is the next group.
    if (tile == tile_begin) {
      ptx::CpAsyncWait<2 * kStages - 1>();
    } else {
      ptx::CpAsyncWait<2 * kStages - 2>();
    }
    ptx::SyncThreads();
    // All are done with the values of the tile before.
    if (tile > tile_begin) load(Part::kValues, tiles.values, tile - 1 + kStages);
    float s[Shape::kScoreTiles][4];
    Scores<Shape>(tiles.keys + stage, tiles.queries, s);
    const bool all_visible =
        (tile + 1) * kTileKeys - 1 <= work.first_position &&
        (params.window == 0 || tile * kTileKeys > work.last_position - params.window);
    if (!all_visible) Mask<Shape>(tiles.positions, tile, params.window, s);

    // Weights; K of a later tile begins to move.
    PublishMaxima<Shape>(s, tiles.parts);
    ptx::SyncThreads();
    load(Part::kKeys, tiles.keys, tile + kStages);
    Softmax<Shape>(s, tiles, max_score, sum);

    // Values.
    ptx::CpAsyncWait<2 * kStages - 1>();
    ptx::SyncThreads();
    AddValues<Shape>(tiles.values + stage, tiles, o);

    const bool split_ends = tile + 1 == tile_end || (tile + 1) % kSplitTiles == 0;
    if (alone && split_ends) {
      PublishStatistics<Shape>(max_score, sum, tiles);
      FoldIntoTotal<Shape>(tiles, o, total);
      Clear<Shape>(o);
      begin_split();
    }
  }
  ptx::GridDependencyLaunch();

  float sums[Shape::kColumnTiles][2];
  if (alone) {
#pragma unroll
    for (int n = 0; n < Shape::kColumnTiles; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) sums[n][c] = tiles.total_sum[8 * n + Lane() % 4 * 2 + c];
    }
  } else {
    PublishStatistics<Shape>(max_score, sum, tiles);
    float* partial =
        params.partials + static_cast<int64_t>(work.first_partial) * Shape::kPartialFloats;
    StorePartial<Shape>(
        tiles, o, work.num_columns,
        partial + static_cast<int64_t>(split - work.splits.begin) * Shape::kPartialFloats);
    if (num_splits > kFoldHereMax) return;
    if (!ArriveLast(params.counters + work.slot, num_splits) || !HasDims<Shape>()) return;
    FoldPartials<Shape, Shape::kDimTiles>(partial, num_splits, work.num_columns, 0, total, sums);
  }
  StoreOut<Shape, Shape::kDimTiles>(params, work, 0, total, sums);
}

// Folds the splits of slots that have more than kFoldHereMax: block (slot, dim tile of each warp).
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads) FoldSplits(const AttendParams params) {
  const auto slot = static_cast<int32_t>(blockIdx.x);
  ptx::GridDependencyWait();
  const AttentionEntry entry = FindEntry(params, &AttentionEntry::first_slot, slot);
  const BlockWork work = WorkAt<Shape>(params, entry, slot - entry.first_slot);
  const int32_t num_splits = work.splits.end - work.splits.begin;
  if (num_splits <= kFoldHereMax || !HasDims<Shape>()) return;
  const auto dim_tile = static_cast<int>(blockIdx.y);
  float total[1][Shape::kColumnTiles][4];
  float sums[Shape::kColumnTiles][2];
  FoldPartials<Shape, 1>(
      params.partials + static_cast<int64_t>(work.first_partial) * Shape::kPartialFloats,
      num_splits, work.num_columns, dim_tile, total, sums);
  ptx::GridDependencyLaunch();
  StoreOut<Shape, 1>(params, work, dim_tile, total, sums);
}

// --- Launches -----------------------------------------------------------------------------------

constexpr int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

// Decode keeps several blocks on an SM, each with one tile of keys and values: while one waits for
// its row, its table or its last tile, the others' copies go on. A prefill block has the SM for
// itself and runs ahead by a tile where two fit.
template <int kHeadDim>
using DecodeShape = AttendShape<kHeadDim, 1, 4, 1, (kHeadDim > 256 ? 1 : 3)>;

template <int kHeadDim>
using PrefillShape =
    AttendShape<kHeadDim, (kHeadDim > 256 ? 4 : 8), 8, (kHeadDim > 256 ? 1 : 2), 1>;

// What the launches of one step have in common.
struct Geometry {
  int32_t group;
  int32_t num_kv_heads;
  int32_t window;
};

// A part before it is staged.
struct Cut {
  std::vector<AttentionEntry> entries;
  int32_t num_items = 0;
  int32_t num_slots = 0;
  bool side_by_side = true;
  bool folds_apart = false;
};

bool IsDecode(const AttentionRow& row, const Geometry& geometry) {
  return row.num_tokens * geometry.group <= 8;
}

int32_t NumSlots(const AttentionRow& row, const Geometry& geometry, int32_t columns) {
  return CeilDiv(row.num_tokens * geometry.group, columns) * geometry.num_kv_heads;
}

int32_t NumSplits(const AttentionRow& row, const Geometry& geometry) {
  const SplitRange splits =
      SplitsOf(static_cast<int32_t>(row.first_position), row.num_tokens, geometry.window);
  return splits.end - splits.begin;
}

// Those rows that are decode, or those that are not, with the end.
Cut CutRows(std::span<const AttentionRow> rows,
            const Geometry& geometry,
            int32_t columns,
            bool decode,
            bool side_by_side) {
  Cut cut{.side_by_side = side_by_side};
  const auto add = [&](int32_t row) {
    cut.entries.push_back(
        {.row = row, .first_item = cut.num_items, .first_slot = cut.num_slots});
  };
  for (size_t r = 0; r < rows.size(); ++r) {
    if (IsDecode(rows[r], geometry) != decode) continue;
    add(static_cast<int32_t>(r));
    const int32_t num_slots = NumSlots(rows[r], geometry, columns);
    const int32_t num_splits = side_by_side ? NumSplits(rows[r], geometry) : 1;
    cut.num_slots += num_slots;
    cut.num_items += num_slots * num_splits;
    cut.folds_apart |= num_splits > kFoldHereMax;
  }
  add(-1);
  return cut;
}

// Rows that are not decode go side by side where their slots alone would leave more than half of
// the device idle, unless that would take more scratch than this.
constexpr int64_t kPrefillPartialBytesMax = int64_t{256} << 20;

template <typename Shape>
Cut CutPrefillRows(std::span<const AttentionRow> rows, const Geometry& geometry, int num_sms) {
  int64_t num_slots = 0;
  int64_t num_partials = 0;
  for (const AttentionRow& row : rows) {
    if (IsDecode(row, geometry)) continue;
    const int32_t row_slots = NumSlots(row, geometry, Shape::kColumns);
    num_slots += row_slots;
    num_partials += int64_t{row_slots} * NumSplits(row, geometry);
  }
  constexpr int64_t kPartialBytes = Shape::kPartialFloats * int64_t{sizeof(float)};
  const bool side_by_side =
      2 * num_slots <= num_sms && num_partials * kPartialBytes <= kPrefillPartialBytesMax;
  return CutRows(rows, geometry, Shape::kColumns, /*decode=*/false, side_by_side);
}

// Floats of scratch that the launch of a part writes.
template <typename Shape>
int64_t PartialFloats(const AttentionPart& part) {
  return part.side_by_side ? int64_t{part.num_blocks} * Shape::kPartialFloats : 0;
}

template <typename Shape>
cudaError_t LaunchPart(const AttentionPart& part, AttendParams params, cudaStream_t stream) {
  if (part.num_entries == 0) return cudaSuccess;
  params.side_by_side = part.side_by_side;
  params.entries = part.entries;
  params.num_entries = part.num_entries;
  const cudaError_t error = ptx::Launch({.grid = dim3(static_cast<uint32_t>(part.num_blocks)),
                                         .block = dim3(Shape::kThreads),
                                         .smem_bytes = Shape::kSmemBytes,
                                         .stream = stream},
                                        Attend<Shape>, params);
  if (error != cudaSuccess || !part.folds_apart) return error;
  return ptx::Launch({.grid = dim3(static_cast<uint32_t>(part.num_slots), Shape::kDimTiles),
                      .block = dim3(Shape::kThreads),
                      .stream = stream},
                     FoldSplits<Shape>, params);
}

template <int kHeadDim>
cudaError_t LaunchPrepare(const PagedAttentionArgs& args, cudaStream_t stream) {
  const int num_kv_parts = !args.has_kv ? 0 : args.k_eq_v ? 1 : 2;
  const PrepareParams params{.qkv = args.qkv.as<Bf16>(),
                             .q_norm = args.q_norm.as<Bf16>(),
                             .k_norm = args.has_kv ? args.k_norm.as<Bf16>() : nullptr,
                             .inv_freq = args.inv_freq.as<float>(),
                             .eps = args.eps,
                             .num_q_heads = args.num_q_heads,
                             .num_kv_heads = args.num_kv_heads,
                             .num_kv_parts = num_kv_parts,
                             .num_tokens = static_cast<int32_t>(args.qkv.dim(0)),
                             .rows = args.batch.device_rows,
                             .num_rows = static_cast<int32_t>(args.batch.rows.size()),
                             .blocks = args.batch.device_blocks,
                             .kv = args.kv.base,
                             .block_stride = args.kv.block_stride};
  const int64_t num_heads = args.num_q_heads + (args.has_kv ? 2 * args.num_kv_heads : 0);
  const int64_t num_blocks = (args.qkv.dim(0) * num_heads + kPrepareWarps - 1) / kPrepareWarps;
  return ptx::Launch({.grid = dim3(static_cast<uint32_t>(num_blocks)),
                      .block = dim3(kPrepareWarps * 32),
                      .stream = stream},
                     PrepareQkv<kHeadDim>, params);
}

// Calls run<head_dim>() for one of the sizes that kernels are compiled for.
template <typename Run>
void WithHeadDim(int head_dim, const Run& run) {
  switch (head_dim) {
    case 16:
      return run.template operator()<16>();
    case 32:
      return run.template operator()<32>();
    case 64:
      return run.template operator()<64>();
    case 128:
      return run.template operator()<128>();
    case 256:
      return run.template operator()<256>();
    case 512:
      return run.template operator()<512>();
    default:
      FACET_CHECK(false) << "no kernel for head_dim" << head_dim;
  }
}

}  // namespace
}  // namespace attention

AttentionPlan CudaBackend::PlanAttention(std::span<const AttentionRow> rows,
                                         const AttentionShape& shape) {
  using namespace attention;  // NOLINT(google-build-using-namespace): the words of this file.
  AttentionPlan plan{.shape = shape};
  if (rows.empty()) return plan;
  constexpr int32_t kPositionsMax = std::numeric_limits<int32_t>::max();
  for (const AttentionRow& row : rows) {
    FACET_CHECK_LT(row.first_position + row.num_tokens, kPositionsMax - kSplitKeys);
  }
  const Geometry geometry{
      .group = shape.num_q_heads / shape.num_kv_heads,
      .num_kv_heads = shape.num_kv_heads,
      .window = static_cast<int32_t>(std::min<int64_t>(shape.window, kPositionsMax))};
  const auto stage = [&](const Cut& cut, int32_t num_blocks) {
    if (cut.entries.size() == 1) return AttentionPart();
    return AttentionPart{.entries = StageArray(cut.entries),
                         .num_entries = static_cast<int32_t>(cut.entries.size()) - 1,
                         .num_blocks = num_blocks,
                         .num_slots = cut.num_slots,
                         .side_by_side = cut.side_by_side,
                         .folds_apart = cut.folds_apart};
  };
  WithHeadDim(shape.head_dim, [&]<int kHeadDim>() {
    const Cut decode = CutRows(rows, geometry, DecodeShape<kHeadDim>::kColumns, /*decode=*/true,
                               /*side_by_side=*/true);
    const Cut prefill = CutPrefillRows<PrefillShape<kHeadDim>>(rows, geometry, info_.num_sms);
    // Steps of decode rows are what is recorded.
    plan.decode = stage(
        decode, static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(decode.num_items))));
    plan.prefill = stage(prefill, prefill.num_items);
  });
  return plan;
}

void CudaBackend::DoPagedAttention(const PagedAttentionArgs& args) {
  using namespace attention;  // NOLINT(google-build-using-namespace): the words of this file.
  FACET_CHECK(args.qkv.dtype() == DType::kBf16);
  if (args.batch.rows.empty()) return;
  const AttentionPlan& plan = attention_plans_.at(args.batch.plan);
  FACET_CHECK((plan.shape == AttentionShape{.num_q_heads = args.num_q_heads,
                                            .num_kv_heads = args.num_kv_heads,
                                            .head_dim = args.head_dim,
                                            .window = args.window}))
      << "rows were staged for another shape";
  WithHeadDim(args.head_dim, [&]<int kHeadDim>() {
    using Decode = DecodeShape<kHeadDim>;
    using Prefill = PrefillShape<kHeadDim>;
    Check(LaunchPrepare<kHeadDim>(args, stream_), "PrepareQkv");
    const int64_t num_floats =
        std::max(PartialFloats<Decode>(plan.decode), PartialFloats<Prefill>(plan.prefill));
    const AttendParams params{
        .q = args.qkv.as<Bf16>(),
        .q_width = args.qkv.dim(1),
        .out = args.out.as<Bf16>(),
        .rows = args.batch.device_rows,
        .blocks = args.batch.device_blocks,
        .kv = args.kv.base,
        .block_stride = args.kv.block_stride,
        .num_kv_heads = args.num_kv_heads,
        .group = args.num_q_heads / args.num_kv_heads,
        .window = static_cast<int32_t>(
            std::min<int64_t>(args.window, std::numeric_limits<int32_t>::max())),
        .partials = ScratchFor<float>(Scratch::kPartials, num_floats),
        .counters =
            ScratchFor<uint32_t>(Scratch::kCounters,
                                 std::max(plan.decode.num_slots, plan.prefill.num_slots))};
    Check(LaunchPart<Decode>(plan.decode, params, stream_), "Attend, decode");
    Check(LaunchPart<Prefill>(plan.prefill, params, stream_), "Attend, prefill");
  });
}

}  // namespace facet::kernels
