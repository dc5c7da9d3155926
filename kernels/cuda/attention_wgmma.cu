// Prefill attention of the `fast` table on compute capability 9.0: products of warpgroups (wgmma).
// Another order of sums than attention.cu's, and other products: the contract's tolerance holds, no
// bits are promised.
//
// Three warpgroups: one copies, two compute. Rows are the queries of one sequence that share a KV
// head, token by token; 64 of them are what one wgmma multiplies.
//
//   head_dim 256: 128 queries,            head_dim 512: 64 queries, both warpgroups have them all;
//   64 for each warpgroup                 sums of 512 dims are more than one holds
//
//        S [64 x 64 keys]                      S left [64 x 32 keys] │ S right [64 x 32 keys]
//        O [64 x 256]                          maxima, weights through shared memory
//                                              O left [64 x 256]     │ O right [64 x 256]
//
// What is copied are pieces of 64 keys (or values) by 128 dims, in the order in which they are
// needed: the keys of a tile, its values, the keys of the next. A ring of nine pieces holds them; a
// barrier for each says that it is full, another that the eight computing warps are done with it.
// While the weights of a tile are computed, the values of the tile before are summed.
//
// Bytes: K and V once for every block of 128 (64) queries and KV head, from L2 when blocks of one
// head run together: 64 FLOP a byte at head_dim 512, 128 at 256. If L2 gives 5.5 TB/s, which is
// what others have measured, that is at most 0.45 and 0.9 of 790 TFLOP/s.
//
// Sources: Shah et al., FlashAttention-3, arXiv:2407.08608 (roles of warpgroups, weights beside
// products); the two halves of a wide head: DeepSeek, FlashMLA.
#include <cmath>

#include "kernels/cuda/attention_wgmma.h"
#include "kernels/cuda/ptx.cuh"

namespace facet::kernels::attention {
namespace {

constexpr int kWarpgroupThreads = 128;
constexpr int kComputingWarps = 8;
constexpr int kBlockThreads = 3 * kWarpgroupThreads;
constexpr int kPieceDims = 128;
constexpr int kPieces = 9;
constexpr int kBarriers = 2 * kPieces + 2;  // One is for the queries, one makes it an even number.
constexpr int kRowElements = 64;            // 128 bytes: a row of what a product reads (ptx.cuh).
constexpr uint32_t kRowBytes = kRowElements * sizeof(Bf16);
constexpr uint32_t kEightRows = 8 * kRowBytes;
constexpr int kPieceElements = kTileKeys * kPieceDims;
constexpr int kQueryRows = 64;  // Of one product.

template <int kHeadDimT>
struct WarpgroupShape {
  static constexpr int kHeadDim = kHeadDimT;
  static constexpr bool kShared = kHeadDim > 256;  // Both warpgroups have the same queries.
  static constexpr int kColumns = kShared ? kQueryRows : 2 * kQueryRows;  // As WorkAt calls them.
  static constexpr int kParts = kHeadDim / kPieceDims;  // Pieces of a tile's keys.
  // Of one warpgroup: keys of a tile in its scores, and parts of the values in its sums.
  static constexpr int kScoreKeys = kShared ? kTileKeys / 2 : kTileKeys;
  static constexpr int kOwnParts = kShared ? kParts / 2 : kParts;

  static constexpr size_t kSmemBytes =
      sizeof(Bf16) * (kColumns * kHeadDim + kPieces * kPieceElements + kQueryRows * kTileKeys) +
      sizeof(float) * 2 * kQueryRows + sizeof(uint64_t) * kBarriers + sizeof(BlockWork);

  static_assert(kHeadDim % (2 * kPieceDims) == 0);
  // The values of a tile are kept until those of the next are asked for.
  static_assert(2 * kParts <= kPieces);
};

// The shared memory of a block.
template <typename Shape>
struct Room {
  FACET_DEVICE Room() {
    ptx::SmemArena arena;
    queries = arena.Take<Bf16>(Shape::kColumns * Shape::kHeadDim, 1024);
    pieces = arena.Take<Bf16>(kPieces * kPieceElements, 1024);
    weights = arena.Take<Bf16>(kQueryRows * kTileKeys, 1024);
    halves = arena.Take<float>(2 * kQueryRows);
    full = arena.Take<uint64_t>(kBarriers);
    empty = full + kPieces;
    queries_full = empty + kPieces;
    work = arena.Take<BlockWork>(1);
  }

  Bf16* queries;  // [head_dim / 64][queries][64], swizzled.
  Bf16* pieces;   // [9][2][64 keys][64], swizzled.
  Bf16* weights;  // [64 queries][64 keys], swizzled; if kShared.
  float* halves;  // [2][64 queries]: what each warpgroup has to say; if kShared.
  uint64_t* full;
  uint64_t* empty;
  uint64_t* queries_full;
  BlockWork* work;
};

// A place in the ring of pieces, as both sides count it.
struct RingPlace {
  int index = 0;
  uint32_t parity = 0;

  FACET_DEVICE void Advance(int count) {
    index += count;
    if (index >= kPieces) {
      index -= kPieces;
      parity ^= 1;
    }
  }

  FACET_DEVICE RingPlace After(int count) const {
    RingPlace place = *this;
    place.Advance(count);
    return place;
  }
};

// --- The warpgroup that copies ------------------------------------------------------------------

template <typename Shape>
FACET_DEVICE void CopyQueries(const AttendParams& params,
                              const BlockWork& work,
                              int thread,
                              Bf16* shared) {
  constexpr int kRowChunks = Shape::kHeadDim / 8;
  for (int c = thread; c < Shape::kColumns * kRowChunks; c += kWarpgroupThreads) {
    const int row = c / kRowChunks;
    const int chunk = c % kRowChunks;
    const bool valid = row < work.num_columns;
    const QueryPlace place = PlaceOf(params, work, valid ? row : 0);
    const Bf16* query = params.q + place.token * params.q_width + place.head * Shape::kHeadDim;
    ptx::CpAsync16(
        shared + chunk / 8 * Shape::kColumns * kRowElements + Swizzled<8>(row, chunk % 8),
        query + chunk * 8, valid);
  }
}

// One part of a tile's rows. What is not stored reads as zeros, as in LoadTile.
template <typename Shape>
FACET_DEVICE void CopyPiece(const KeyRows& rows, int32_t tile, int part, int thread, Bf16* shared) {
  constexpr int kChunks = kPieceDims / 8;
  constexpr int kRowsAtOnce = kWarpgroupThreads / kChunks;
  static_assert(kRowsAtOnce == 8);
  const int chunk = thread % kChunks;
  const int first_row = thread / kChunks;
  // Eight rows further a chunk has the same place in its row.
  Bf16* to = shared + chunk / 8 * kTileKeys * kRowElements + Swizzled<8>(first_row, chunk % 8);
#pragma unroll 2  // There are registers for no more.
  for (int b = 0; b < kTileKeys / kBlockTokens; ++b) {
    const int first = tile * kTileKeys + b * kBlockTokens;
    const int index = first / kBlockTokens - rows.first_block;
    const bool present = index >= 0 && first < rows.end;
    const std::byte* source =
        (present ? rows.base + rows.blocks[index] * rows.block_stride : rows.base) +
        (part * kPieceDims + chunk * 8) * static_cast<int>(sizeof(Bf16));
#pragma unroll
    for (int r = 0; r < kBlockTokens; r += kRowsAtOnce) {
      const int row = first_row + r;
      ptx::CpAsync16(to + (b * kBlockTokens + r) * kRowElements,
                     source + row * Shape::kHeadDim * static_cast<int>(sizeof(Bf16)),
                     present && first + row < rows.end);
    }
  }
}

template <typename Shape>
FACET_DEVICE void CopyAll(const AttendParams& params, const Room<Shape>& room) {
  const BlockWork& work = *room.work;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
  CopyQueries<Shape>(params, work, thread, room.queries);
  ptx::MBarrierArriveAfterCopies(room.queries_full);
  const KeyRows keys = KeysOf<Shape>(params, work);
  const TileRange range = TilesOf(work, params.window);
  RingPlace place;
  for (int32_t tile = range.begin; tile < range.end; ++tile) {
#pragma unroll 1
    for (int i = 0; i < 2 * Shape::kParts; ++i) {
      ptx::MBarrierWait(room.empty + place.index, place.parity ^ 1);
      KeyRows rows = keys;
      if (i >= Shape::kParts) rows.base += params.num_kv_heads * kHeadBytes<Shape>;
      CopyPiece<Shape>(rows, tile, i % Shape::kParts, thread,
                       room.pieces + place.index * kPieceElements);
      ptx::MBarrierArriveAfterCopies(room.full + place.index);
      place.Advance(1);
    }
  }
  ptx::GridDependencyLaunch();
  // A thread does not end before its copies.
  ptx::CpAsyncCommit();
  ptx::CpAsyncWait<0>();
}

// --- The warpgroups that compute ----------------------------------------------------------------

// Rows g and g + 8 of a warp's sixteen, with g = lane / 4.
using RowPair = float[2];

template <typename Shape>
using ScoreFragment = float[Shape::kScoreKeys / 2];

template <typename Shape>
using SumFragment = float[Shape::kOwnParts][kPieceDims / 2];

// A bf16 of each key in the tile for both rows: the left operand of four products of 16 keys.
using WeightFragment = uint32_t[kTileKeys / 16][4];

FACET_DEVICE int FirstRow() { return Warp() % 4 * 16 + Lane() / 4; }

// Both computing warpgroups meet.
FACET_DEVICE void Meet() { ptx::NamedBarrierSync(1, 2 * kWarpgroupThreads); }

// This warp is done with the keys, or values, of a tile.
template <typename Shape>
FACET_DEVICE void Release(const Room<Shape>& room, const RingPlace& first) {
  if (Lane() != 0) return;
#pragma unroll
  for (int part = 0; part < Shape::kParts; ++part) {
    ptx::MBarrierArrive(room.empty + first.After(part).index);
  }
}

// Enqueues S = Q K^T for this warpgroup's queries and keys.
template <typename Shape>
FACET_DEVICE void BeginScores(const Room<Shape>& room,
                              int half,
                              const RingPlace& first,
                              ScoreFragment<Shape>& s) {
  const Bf16* queries = room.queries + (Shape::kShared ? 0 : half * kQueryRows * kRowElements);
  const int first_key = Shape::kShared ? half * Shape::kScoreKeys : 0;
#pragma unroll
  for (int part = 0; part < Shape::kParts; ++part) {
    const RingPlace place = first.After(part);
    ptx::MBarrierWait(room.full + place.index, place.parity);
    ptx::FenceProxyAsync();
    ptx::WgmmaFence();
    const Bf16* keys = room.pieces + place.index * kPieceElements + first_key * kRowElements;
#pragma unroll
    for (int step = 0; step < kPieceDims / 16; ++step) {
      const int row = step / 4;  // Of 64 dims.
      const int column = step % 4 * 16;
      ptx::WgmmaBf16<Shape::kScoreKeys>(
          s,
          ptx::KMajor(queries + (2 * part + row) * Shape::kColumns * kRowElements + column,
                      kEightRows),
          ptx::KMajor(keys + row * kTileKeys * kRowElements + column, kEightRows), part + step > 0);
    }
  }
  ptx::WgmmaCommit();
}

// Enqueues O += P V for this warpgroup's queries and dims.
template <typename Shape>
FACET_DEVICE void BeginValues(const Room<Shape>& room,
                              int half,
                              const RingPlace& first,
                              const WeightFragment& p,
                              SumFragment<Shape>& o) {
#pragma unroll
  for (int i = 0; i < Shape::kOwnParts; ++i) {
    const RingPlace place = first.After((Shape::kShared ? half * Shape::kOwnParts : 0) + i);
    ptx::MBarrierWait(room.full + place.index, place.parity);
    ptx::FenceProxyAsync();
    ptx::WgmmaFence();
    const Bf16* values = room.pieces + place.index * kPieceElements;
#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step) {
      ptx::WgmmaBf16(
          o[i], p[step],
          ptx::MnMajor(values + step * 16 * kRowElements, kEightRows, kTileKeys * kRowBytes));
    }
  }
  ptx::WgmmaCommit();
}

// The other warpgroup's word and this one's on a row: fold(own, other).
template <typename Fold>
FACET_DEVICE void Exchange(float* halves, int half, const Fold& fold, RowPair& pair) {
  if (Lane() % 4 == 0) {
#pragma unroll
    for (int h = 0; h < 2; ++h) halves[half * kQueryRows + FirstRow() + 8 * h] = pair[h];
  }
  Meet();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    pair[h] = fold(pair[h], halves[(1 - half) * kQueryRows + FirstRow() + 8 * h]);
  }
}

FACET_DEVICE float MaxOverColumns(float value) {
  value = fmaxf(value, ptx::ShuffleXor(value, 1));
  return fmaxf(value, ptx::ShuffleXor(value, 2));
}

FACET_DEVICE float SumOverColumns(float value) {
  value += ptx::ShuffleXor(value, 1);
  return value + ptx::ShuffleXor(value, 2);
}

// Scores of keys that a query may not see become -infinity; first_key and first_row are those of
// this warpgroup's scores.
template <typename Shape>
FACET_DEVICE void HideUnseen(const AttendParams& params,
                             const BlockWork& work,
                             int32_t first_key,
                             int first_row,
                             ScoreFragment<Shape>& s) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = first_row + FirstRow() + 8 * h;
    const int32_t position = row < work.num_columns
                                 ? static_cast<int32_t>(work.row.first_position) +
                                       (work.first_column + row) / params.group
                                 : -1;
#pragma unroll
    for (int i = 2 * h; i < Shape::kScoreKeys / 2; i += 4) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int32_t key = first_key + 2 * (i - 2 * h) + Lane() % 4 * 2 + c;
        if (key > position || (params.window != 0 && key <= position - params.window)) {
          s[i + c] = -INFINITY;
        }
      }
    }
  }
}

// From scores to weights in bf16, as Softmax in attention.cuh: takes the tile's maxima into max,
// tells by which factor what was summed before shrinks, and adds the weights to this thread's part
// of sum.
template <typename Shape>
FACET_DEVICE void Weigh(const Room<Shape>& room,
                        int half,
                        ScoreFragment<Shape>& s,
                        RowPair& max,
                        RowPair& sum,
                        RowPair& factor) {
  constexpr float kLog2E = 1.44269504F;
  RowPair new_max = {max[0], max[1]};
#pragma unroll
  for (int i = 0; i < Shape::kScoreKeys / 2; ++i) {
    new_max[i / 2 % 2] = fmaxf(new_max[i / 2 % 2], s[i]);
  }
#pragma unroll
  for (float& value : new_max) value = MaxOverColumns(value);
  if constexpr (Shape::kShared) {
    Exchange(
        room.halves, half, [](float own, float other) { return fmaxf(own, other); }, new_max);
  }
  RowPair shift;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float origin = Origin(new_max[h]);
    factor[h] = ExpFrom(origin, max[h]);
    max[h] = new_max[h];
    shift[h] = -origin * kLog2E;
    sum[h] *= factor[h];
  }
#pragma unroll
  for (int i = 0; i < Shape::kScoreKeys / 2; i += 2) {
    const int h = i / 2 % 2;
    const uint32_t pair = ptx::PackBf16(ptx::Exp2(fmaf(s[i], kLog2E, shift[h])),
                                        ptx::Exp2(fmaf(s[i + 1], kLog2E, shift[h])));
    s[i] = FloatOfBits(pair << 16);
    s[i + 1] = FloatOfBits(pair & 0xffff0000U);
    sum[h] += s[i] + s[i + 1];
    if constexpr (Shape::kShared) {
      const int chunk = half * Shape::kScoreKeys / 8 + i / 4;
      *reinterpret_cast<uint32_t*>(room.weights + Swizzled<8>(FirstRow(), chunk) +
                                   8 * h * kRowElements + Lane() % 4 * 2) = pair;
    }
  }
  if constexpr (Shape::kShared) Meet();
}

// The weights as an operand. Its registers are a product's until EndValues.
template <typename Shape>
FACET_DEVICE void TakeWeights(const Room<Shape>& room,
                              const ScoreFragment<Shape>& s,
                              WeightFragment& p) {
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
    if constexpr (Shape::kShared) {
      ptx::LdMatrixX4(p[step], room.weights + Swizzled<8>(Warp() % 4 * 16 + Lane() % 16,
                                                          2 * step + Lane() / 16));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        p[step][i] = ptx::PackBf16(s[8 * step + 2 * i], s[8 * step + 2 * i + 1]);
      }
    }
  }
}

template <typename Shape>
FACET_DEVICE void Shrink(const RowPair& factor, SumFragment<Shape>& o) {
#pragma unroll
  for (int part = 0; part < Shape::kOwnParts; ++part) {
#pragma unroll
    for (int i = 0; i < kPieceDims / 2; ++i) o[part][i] *= factor[i / 2 % 2];
  }
}

// Waits for all products; O is there.
template <typename Shape>
FACET_DEVICE void EndValues(SumFragment<Shape>& o) {
  ptx::WgmmaWait<0>();
#pragma unroll
  for (int part = 0; part < Shape::kOwnParts; ++part) ptx::WgmmaResult(o[part]);
}

// out = round(O / l).
template <typename Shape>
FACET_DEVICE void StoreRows(const AttendParams& params,
                            const BlockWork& work,
                            int half,
                            const RowPair& sum,
                            const SumFragment<Shape>& o) {
  const int64_t width = static_cast<int64_t>(params.num_kv_heads) * params.group * Shape::kHeadDim;
  const int first_row = FirstRow() + (Shape::kShared ? 0 : half * kQueryRows);
  const int first_dim =
      (Shape::kShared ? half * Shape::kOwnParts * kPieceDims : 0) + Lane() % 4 * 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = first_row + 8 * h;
    if (row >= work.num_columns) continue;
    const QueryPlace place = PlaceOf(params, work, row);
    Bf16* out = params.out + place.token * width + place.head * Shape::kHeadDim + first_dim;
    const float inverse = 1.0F / sum[h];
#pragma unroll
    for (int part = 0; part < Shape::kOwnParts; ++part) {
#pragma unroll
      for (int i = 0; i < kPieceDims / 2; i += 4) {
        const int e = i + 2 * h;
        *reinterpret_cast<uint32_t*>(out + part * kPieceDims + 2 * i) =
            ptx::PackBf16(o[part][e] * inverse, o[part][e + 1] * inverse);
      }
    }
  }
}

template <typename Shape>
FACET_DEVICE void ComputeAll(const AttendParams& params, const Room<Shape>& room) {
  const BlockWork& work = *room.work;
  // Which of the two warpgroups this is: the same in all lanes, as the compiler shall know.
  const int half = ptx::ShuffleFrom(static_cast<int>(threadIdx.x) / kWarpgroupThreads, 0);
  SumFragment<Shape> o;
#pragma unroll
  for (auto& part : o) {
#pragma unroll
    for (float& value : part) value = 0;
  }
  RowPair max = {-INFINITY, -INFINITY};
  RowPair sum = {0, 0};
  RowPair factor;
  ScoreFragment<Shape> s;
  WeightFragment p;
  const auto hide_unseen = [&](int32_t tile) {
    const bool all_visible =
        (tile + 1) * kTileKeys - 1 <= work.first_position && work.num_columns == Shape::kColumns &&
        (params.window == 0 || tile * kTileKeys > work.last_position - params.window);
    if (all_visible) return;
    HideUnseen<Shape>(params, work,
                      tile * kTileKeys + (Shape::kShared ? half * Shape::kScoreKeys : 0),
                      Shape::kShared ? 0 : half * kQueryRows, s);
  };

  const TileRange range = TilesOf(work, params.window);
  ptx::MBarrierWait(room.queries_full, 0);
  RingPlace keys;
  BeginScores<Shape>(room, half, keys, s);
  ptx::WgmmaWait<0>();
  ptx::WgmmaResult(s);
  Release<Shape>(room, keys);
  hide_unseen(range.begin);
  Weigh<Shape>(room, half, s, max, sum, factor);
  TakeWeights<Shape>(room, s, p);
  for (int32_t tile = range.begin + 1; tile < range.end; ++tile) {
    // Values of the tile before are summed while the weights of this one are computed.
    const RingPlace values = keys.After(Shape::kParts);
    keys = values.After(Shape::kParts);
    BeginScores<Shape>(room, half, keys, s);
    BeginValues<Shape>(room, half, values, p, o);
    ptx::WgmmaWait<1>();
    ptx::WgmmaResult(s);
    Release<Shape>(room, keys);
    hide_unseen(tile);
    Weigh<Shape>(room, half, s, max, sum, factor);
    EndValues<Shape>(o);
    Release<Shape>(room, values);
    Shrink<Shape>(factor, o);
    TakeWeights<Shape>(room, s, p);
  }
  ptx::GridDependencyLaunch();
  BeginValues<Shape>(room, half, keys.After(Shape::kParts), p, o);
  EndValues<Shape>(o);

#pragma unroll
  for (float& value : sum) value = SumOverColumns(value);
  if constexpr (Shape::kShared) {
    Exchange(
        room.halves, half, [](float own, float other) { return own + other; }, sum);
  }
  StoreRows<Shape>(params, work, half, sum, o);
}

template <typename Shape>
__global__ void __launch_bounds__(kBlockThreads, 1) AttendByWarpgroups(const AttendParams params) {
  if (!ptx::kHasWarpgroups) return;
  const Room<Shape> room;
  ptx::GridDependencyWait();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kPieces; ++i) {
      ptx::MBarrierInit(room.full + i, kWarpgroupThreads);
      ptx::MBarrierInit(room.empty + i, kComputingWarps);
    }
    ptx::MBarrierInit(room.queries_full, kWarpgroupThreads);
    ptx::MBarrierInitFence();
    *room.work = WorkOfItem<Shape>(params, static_cast<int32_t>(blockIdx.x));
  }
  ptx::SyncThreads();
  if (threadIdx.x >= 2 * kWarpgroupThreads) {
    ptx::GiveRegisters<40>();
    CopyAll<Shape>(params, room);
  } else {
    ptx::TakeRegisters<232>();
    ComputeAll<Shape>(params, room);
  }
}

template <typename Shape>
cudaError_t LaunchShaped(const AttentionPart& part,
                         const AttendParams& params,
                         cudaStream_t stream) {
  return ptx::Launch({.grid = dim3(static_cast<uint32_t>(part.num_blocks)),
                      .block = dim3(kBlockThreads),
                      .smem_bytes = Shape::kSmemBytes,
                      .stream = stream},
                     AttendByWarpgroups<Shape>, ParamsOf(part, params));
}

}  // namespace

int32_t QueriesByWarpgroups(int head_dim) {
  switch (head_dim) {
    case 256:
      return WarpgroupShape<256>::kColumns;
    case 512:
      return WarpgroupShape<512>::kColumns;
    default:
      return 0;
  }
}

cudaError_t LaunchByWarpgroups(int head_dim,
                               const AttentionPart& part,
                               const AttendParams& params,
                               cudaStream_t stream) {
  switch (head_dim) {
    case 256:
      return LaunchShaped<WarpgroupShape<256>>(part, params, stream);
    case 512:
      return LaunchShaped<WarpgroupShape<512>>(part, params, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace facet::kernels::attention
