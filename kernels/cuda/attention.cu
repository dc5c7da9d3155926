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
//   - side by side: a block for each split writes (O, m, l) to scratch; in decode the last one to
//     arrive folds them, unless they are many; else a third kernel spread over head_dim does.
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
#include <optional>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/arrive_last.cuh"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/attention_prepare.cuh"
#include "kernels/cuda/attention_wgmma.h"
#include "kernels/cuda/attention_work.cuh"
#include "kernels/cuda/cuda_backend.h"

namespace facet::kernels {
namespace attention {
namespace {

// --- Attend -------------------------------------------------------------------------------------

// More splits than this are folded by a kernel of their own. In prefill all are: there Attend has
// no registers left for it.
template <typename Shape>
constexpr int kFoldHereMax = Shape::kColumnTiles == 1 ? 8 : 1;

template <typename Shape>
FACET_DEVICE void LoadQueries(const AttendParams& params, const BlockWork& work, Bf16* shared) {
  for (int c = static_cast<int>(threadIdx.x); c < Shape::kColumns * Shape::kRowChunks;
       c += Shape::kThreads) {
    const int column = c / Shape::kRowChunks;
    const int chunk = c % Shape::kRowChunks;
    const bool valid = column < work.num_columns;
    const QueryPlace place = PlaceOf(params, work, valid ? column : 0);
    const Bf16* query = params.q + place.token * params.q_width + place.head * Shape::kHeadDim;
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
      const QueryPlace place = PlaceOf(params, work, column);
      Bf16* out = params.out + place.token * width + place.head * Shape::kHeadDim + dim;
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

// Columns of one slot against all its splits in turn, or against one of them.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    Attend(const AttendParams params) {
  constexpr int kStages = Shape::kStages;
  const Tiles<Shape> tiles;
  FACET_SHARED(work, BlockWork);
  ptx::GridDependencyWait();
  if (threadIdx.x == 0) work = WorkOfItem<Shape>(params, static_cast<int32_t>(blockIdx.x));
  ptx::SyncThreads();
  if (work.num_columns == 0) return;

  const int32_t num_splits = work.splits.end - work.splits.begin;
  const bool alone = !params.side_by_side || num_splits == 1;
  const TileRange seen = TilesOf(work, params.window);
  int32_t tile_begin = seen.begin;
  int32_t tile_end = seen.end;
  if (params.side_by_side) {
    const int32_t split_begin = work.split * kSplitTiles;
    const int32_t split_end = split_begin + kSplitTiles;
    if (tile_begin < split_begin) tile_begin = split_begin;
    if (tile_end > split_end) tile_end = split_end;
  }

  enum class Part { kKeys, kValues };
  // Every call makes one group of copies, of nothing past the end, so that waits can count groups.
  const auto load = [&](Part part, Bf16* shared, int32_t tile) {
    if (tile < tile_end) {
      // Not kept between calls: it would cost the registers that the widest shape has not left.
      KeyRows rows = KeysOf<Shape>(params, work);
      if (part == Part::kValues) rows.base += params.num_kv_heads * kHeadBytes<Shape>;
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
        partial + static_cast<int64_t>(work.split - work.splits.begin) * Shape::kPartialFloats);
    if (kFoldHereMax<Shape> == 1 || num_splits > kFoldHereMax<Shape>) return;
    if (!ArriveLast(params.counters + work.slot, num_splits) || !HasDims<Shape>()) return;
    FoldPartials<Shape, Shape::kDimTiles>(partial, num_splits, work.num_columns, 0, total, sums);
  }
  StoreOut<Shape, Shape::kDimTiles>(params, work, 0, total, sums);
}

// Folds the splits of slots that have more than kFoldHereMax<Shape>: block (slot, dim tile of each
// warp).
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads) FoldSplits(const AttendParams params) {
  const auto slot = static_cast<int32_t>(blockIdx.x);
  ptx::GridDependencyWait();
  const AttentionEntry entry = FindEntry(params, &AttentionEntry::first_slot, slot);
  const BlockWork work = WorkAt<Shape>(params, entry, slot - entry.first_slot);
  const int32_t num_splits = work.splits.end - work.splits.begin;
  if (num_splits <= kFoldHereMax<Shape> || !HasDims<Shape>()) return;
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

// The same for devices with less shared memory than that takes: one tile, or fewer queries.
template <int kHeadDim>
using SmallPrefillShape = AttendShape<kHeadDim, (kHeadDim > 256 ? 2 : 8), 8, 1, 1>;

static_assert(DecodeShape<512>::kSmemBytes <= CudaBackend::kSmemBytesMin);
static_assert(SmallPrefillShape<256>::kSmemBytes <= CudaBackend::kSmemBytesMin);
static_assert(SmallPrefillShape<512>::kSmemBytes <= CudaBackend::kSmemBytesMin);

// Calls run<Shape>() for the shape of prefill that fits.
template <int kHeadDim, typename Run>
void WithPrefillShape(int64_t smem_bytes, const Run& run) {
  if constexpr (PrefillShape<kHeadDim>::kSmemBytes > CudaBackend::kSmemBytesMin) {
    if (smem_bytes < static_cast<int64_t>(PrefillShape<kHeadDim>::kSmemBytes)) {
      return run.template operator()<SmallPrefillShape<kHeadDim>>();
    }
  }
  run.template operator()<PrefillShape<kHeadDim>>();
}

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

// How rows become blocks.
struct Cutter {
  int32_t columns;  // Of one block.
  bool decode;      // Those rows that are decode, or those that are not.
  bool side_by_side;
  int32_t fold_here_max = 1;
};

Cut CutRows(std::span<const AttentionRow> rows, const Geometry& geometry, const Cutter& cutter) {
  Cut cut{.side_by_side = cutter.side_by_side};
  const auto add = [&](int32_t row) {
    cut.entries.push_back({.row = row, .first_item = cut.num_items, .first_slot = cut.num_slots});
  };
  for (size_t r = 0; r < rows.size(); ++r) {
    if (IsDecode(rows[r], geometry) != cutter.decode) continue;
    add(static_cast<int32_t>(r));
    const int32_t num_slots = NumSlots(rows[r], geometry, cutter.columns);
    const int32_t num_splits = cutter.side_by_side ? NumSplits(rows[r], geometry) : 1;
    cut.num_slots += num_slots;
    cut.num_items += num_slots * num_splits;
    cut.folds_apart |= num_splits > cutter.fold_here_max;
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
  return CutRows(rows, geometry,
                 {.columns = Shape::kColumns,
                  .decode = false,
                  .side_by_side = side_by_side,
                  .fold_here_max = kFoldHereMax<Shape>});
}

// The same for blocks of warpgroups, if they are at least so many.
std::optional<Cut> CutForWarpgroups(std::span<const AttentionRow> rows,
                                    const Geometry& geometry,
                                    int head_dim,
                                    int blocks_min) {
  const int32_t queries = QueriesByWarpgroups(head_dim);
  if (queries == 0) return std::nullopt;
  Cut cut = CutRows(rows, geometry, {.columns = queries, .decode = false, .side_by_side = false});
  if (cut.num_items < blocks_min) return std::nullopt;
  return cut;
}

// Floats of scratch that the launch of a part writes.
template <typename Shape>
int64_t PartialFloats(const AttentionPart& part) {
  return part.side_by_side ? int64_t{part.num_blocks} * Shape::kPartialFloats : 0;
}

template <typename Shape>
cudaError_t LaunchPart(const AttentionPart& part, const AttendParams& common, cudaStream_t stream) {
  if (part.num_entries == 0) return cudaSuccess;
  const AttendParams params = ParamsOf(part, common);
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
    using Decode = DecodeShape<kHeadDim>;
    const Cut decode = CutRows(rows, geometry,
                               {.columns = Decode::kColumns,
                                .decode = true,
                                .side_by_side = true,
                                .fold_here_max = kFoldHereMax<Decode>});
    // Steps of decode rows are what is recorded.
    plan.decode =
        stage(decode, static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(decode.num_items))));
    const int blocks_min =
        options_.fast_blocks_min > 0 ? options_.fast_blocks_min : info_.num_sms / 2 + 1;
    const std::optional<Cut> wide =
        HasWarpgroups() ? CutForWarpgroups(rows, geometry, kHeadDim, blocks_min) : std::nullopt;
    WithPrefillShape<kHeadDim>(info_.smem_bytes, [&]<typename Prefill>() {
      const Cut prefill = wide ? *wide : CutPrefillRows<Prefill>(rows, geometry, info_.num_sms);
      plan.prefill = stage(prefill, prefill.num_items);
      plan.prefill.by_warpgroups = wide.has_value();
    });
  });
  return plan;
}

bool CudaBackend::HasWarpgroups() const {
#ifdef FACET_CUDA_SM90A
  return options_.cublas_lt != nullptr && info_.compute_capability == 90;
#else
  return false;
#endif
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
  const auto run = [&]<int kHeadDim, typename Decode, typename Prefill>() {
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
        .counters = ScratchFor<uint32_t>(Scratch::kCounters,
                                         std::max(plan.decode.num_slots, plan.prefill.num_slots))};
    Check(LaunchPart<Decode>(plan.decode, params, stream_), "Attend, decode");
    if (plan.prefill.by_warpgroups) {
      Check(LaunchByWarpgroups(kHeadDim, plan.prefill, params, stream_), "AttendByWarpgroups");
    } else {
      Check(LaunchPart<Prefill>(plan.prefill, params, stream_), "Attend, prefill");
    }
  };
  WithHeadDim(args.head_dim, [&]<int kHeadDim>() {
    WithPrefillShape<kHeadDim>(info_.smem_bytes, [&]<typename Prefill>() {
      run.template operator()<kHeadDim, DecodeShape<kHeadDim>, Prefill>();
    });
  });
}

}  // namespace facet::kernels
