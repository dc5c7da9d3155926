// Mixture of experts: NormRouterTopK, MoeUp, MoeDown, MoeCombine.
//
// Launches of a layer, nine at decode:
//   NormRouterTopK   route_norm (a CTA per token), router product, top_k (a warp per token)
//   MoeUp            plan (one CTA), experts, dense path
//   MoeDown          experts, by MoeUp's plan, and dense path
//   MoeCombine       a CTA per token
// Why not fewer: ARCHITECTURE.md, 37.
//
// The plan turns "token t chose experts" into "expert e has these assignments": list holds
// assignment numbers t * top_k + j, grouped by expert and ascending in each; tiles cut every
// group into pieces of one CTA's tokens. CTAs of the expert products take tiles by number, so that
// the host needs to know nothing of the routing; the grid is as large as the routing can need, and
// CTAs without a tile leave at once. An assignment's values do not depend on its neighbours in a
// tile (linear.cuh), so the routing of other tokens changes no bit.
//
// Its time is linear: an assignment is read twice and listed once, by a warp 32 at a time.
// Calculated with 128 experts and top 8, not measured: at one token 32 bytes in and 128 out, about
// 1 us, all of it latency; at 4096 tokens 131 KB in, twice, and 136 KB out, some 15 us, where the
// layer's experts take 490.
//
// Bytes at one token of 26B-A4B: 8 experts of 11.9 MB and the dense 35.7 MB; predicted 30.4 us at
// 4.3 TB/s.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/approx.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gated_gelu.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/moe_sums.cuh"
#include "kernels/cuda/row_norm.cuh"

namespace facet::kernels {
namespace {

constexpr int kExpertsMax = 512;

// --- Norms, router, top-k ---------------------------------------------------------------------

struct RouteNormArgs {
  Bf16* hidden;
  const Bf16* attention_out;
  const Bf16* post_attention_norm;
  const Bf16* pre_norm;
  const Bf16* pre_norm_2;
  const Bf16* router_scale;
  Bf16* dense_in;
  Bf16* expert_in;
  Bf16* router_in;
  int cols;
  float size_factor;
  float eps;
};

// The residual stream after attention, and its three normed copies: they share one scale.
__global__ void __launch_bounds__(kRowThreads) RouteNormKernel(RouteNormArgs args) {
  ptx::SmemArena arena;
  float* warp_sums = arena.Take<float>(kRowWarps);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * args.cols;
  Bf16* hidden = args.hidden + first;
  const Bf16* branch = args.attention_out + first;
  ptx::GridDependencyWait();

  float branch_squares = 0;
  ForPairsOfThread(args.cols,
                   [&](int col) { branch_squares += SumOfSquares(LoadPair(branch, col)); });
  const float branch_scale = RmsScale(BlockSum(branch_squares, warp_sums), args.cols, args.eps);

  float squares = 0;
  ForPairsOfThread(args.cols, [&](int col) {
    const RowPair add =
        Normed(LoadPair(branch, col), branch_scale, LoadPair(args.post_attention_norm, col));
    const RowPair old = LoadPair(hidden, col);
    const RowPair sum = {RoundToBf16(old.low + add.low), RoundToBf16(old.high + add.high)};
    StorePair(hidden, col, sum);
    squares += SumOfSquares(sum);
  });
  const float scale = RmsScale(BlockSum(squares, warp_sums), args.cols, args.eps);

  ForPairsOfThread(args.cols, [&](int col) {
    const RowPair x = LoadPair(hidden, col);
    StorePair(args.dense_in + first, col, Normed(x, scale, LoadPair(args.pre_norm, col)));
    StorePair(args.expert_in + first, col, Normed(x, scale, LoadPair(args.pre_norm_2, col)));
    const RowPair z = Normed(x, scale, {1, 1});
    const RowPair factor = LoadPair(args.router_scale, col);
    StorePair(args.router_in + first, col,
              {RoundToBf16(z.low * factor.low) * args.size_factor,
               RoundToBf16(z.high * factor.high) * args.size_factor});
  });
  ptx::GridDependencyLaunch();
}

struct TopKArgs {
  const Bf16* logits;  // [num_tokens, num_experts]
  const Bf16* per_expert_scale;
  int32_t* ids;    // [num_tokens, top_k]
  float* weights;  // [num_tokens, top_k]
  int num_tokens;
  int num_experts;
  int top_k;
};

constexpr int kTopKThreads = 128;

// A warp per token; a lane holds the logits of experts lane, lane + 32, ... The softmax over all
// experts cancels out of weight = p / sum of the chosen p.
__global__ void __launch_bounds__(kTopKThreads) TopKKernel(TopKArgs args) {
  constexpr int kPerLane = kExpertsMax / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int token =
      static_cast<int>(blockIdx.x) * (kTopKThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  ptx::GridDependencyWait();
  if (token >= args.num_tokens) return;
  const Bf16* logits = args.logits + static_cast<int64_t>(token) * args.num_experts;

  uint32_t chosen = 0;  // By this lane's expert number / 32.
  float largest = 0;
  float total = 0;
  float my_exp = 0;  // Lane j keeps the j-th choice.
  int my_id = 0;
  for (int j = 0; j < args.top_k; ++j) {
    float best = -INFINITY;
    int best_id = args.num_experts;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int id = i * 32 + lane;
      if (id >= args.num_experts || (chosen >> i & 1) != 0) continue;
      const float logit = ToFloat(logits[id]);
      // A logit that is not a number is the last choice: ids stay in range whatever comes in.
      if (best_id == args.num_experts || logit > best) {
        best = logit == logit ? logit : -INFINITY;
        best_id = id;
      }
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
      const float other = ptx::ShuffleXor(best, mask);
      const int other_id = ptx::ShuffleXor(best_id, mask);
      if (other > best || (other == best && other_id < best_id)) {
        best = other;
        best_id = other_id;
      }
    }
    if (best_id % 32 == lane) chosen |= 1U << (best_id / 32);
    if (j == 0) largest = best;
    const float exp = ApproxExp(best - largest);
    total += exp;
    if (lane == j) {
      my_exp = exp;
      my_id = best_id;
    }
  }
  if (lane < args.top_k) {
    const int64_t at = static_cast<int64_t>(token) * args.top_k + lane;
    args.ids[at] = my_id;
    args.weights[at] = my_exp / total * ToFloat(args.per_expert_scale[my_id]);
  }
  ptx::GridDependencyLaunch();
}

// --- The plan ---------------------------------------------------------------------------------

struct Tile {
  int32_t expert;
  int32_t begin;  // In the list.
  int32_t end;    // Of the expert's assignments in the list.
};

struct Plan {
  int32_t* list;  // [num_assignments]
  Tile* tiles;    // [num_tiles_max]
  int num_assignments;
  int num_tiles_max;
  int tile_tokens;
};

constexpr int kPlanThreadsMax = 1024;
constexpr int kPlanWarpsAtOnce = 8;
static_assert(kExpertsMax < kPlanThreadsMax);

// One for each assignment and, at the least, for each expert and the thread after them.
int PlanThreads(int64_t num_assignments, int num_experts) {
  constexpr int kUnit = 32 * kPlanWarpsAtOnce;
  const int64_t wanted = std::max<int64_t>(num_assignments, num_experts + 1);
  return static_cast<int>(
      std::min<int64_t>(CeilDiv<int64_t>(wanted, kUnit) * kUnit, kPlanThreadsMax));
}

// Entries of a row that has one for each expert, and one for assignments that have none.
FACET_ALWAYS_INLINE int PlanRow(int num_experts) { return (num_experts + 1 + 3) / 4 * 4; }

size_t PlanSmemBytes(int num_warps, int num_experts) {
  return static_cast<size_t>(num_warps) * sizeof(uint64_t) +
         static_cast<size_t>((num_warps + 2) * PlanRow(num_experts)) * sizeof(int32_t);
}

// The sum of value over the threads before this one. All threads of the block call it.
FACET_DEVICE uint64_t SumBefore(uint64_t value, uint64_t* warp_sums) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint64_t sum = value;
#pragma unroll
  for (int delta = 1; delta < 32; delta *= 2) {
    const uint64_t below = ptx::ShuffleUp(sum, delta);
    if (lane >= delta) sum += below;
  }
  if (lane == 31) warp_sums[warp] = sum;
  ptx::SyncThreads();
  uint64_t before = sum - value;
  for (int i = 0; i < warp; ++i) before += warp_sums[i];
  return before;
}

// The lanes whose number, from 0 to most, is this lane's.
FACET_DEVICE uint32_t LanesAlike(int number, int most) {
  uint32_t alike = ~0U;
  for (int bit = 1; bit <= most; bit *= 2) {
    const bool is_set = (number & bit) != 0;
    const uint32_t votes = ptx::Ballot(is_set);
    alike &= is_set ? votes : ~votes;
  }
  return alike;
}

// One CTA of PlanThreads; a counting sort that keeps the order. Each warp has a slice of the
// assignments.
__global__ void __launch_bounds__(kPlanThreadsMax)
    PlanKernel(const int32_t* ids, int num_experts, Plan plan) {
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int num_threads = static_cast<int>(blockDim.x);
  const int num_warps = num_threads / 32;
  const int row = PlanRow(num_experts);
  ptx::SmemArena arena;
  auto* warp_sums = arena.Take<uint64_t>(static_cast<size_t>(num_warps));
  auto* begins = arena.Take<int32_t>(static_cast<size_t>(row));
  auto* tile_begins = arena.Take<int32_t>(static_cast<size_t>(row));
  auto* counts = arena.Take<int32_t>(static_cast<size_t>(num_warps * row));
  int32_t* mine = counts + warp * row;
  const int slice = (plan.num_assignments + num_threads - 1) / num_threads * 32;
  const int slice_begin = warp * slice;
  const int slice_end =
      slice_begin + slice < plan.num_assignments ? slice_begin + slice : plan.num_assignments;
  const auto expert_of = [&](int assignment) {
    const int32_t id = assignment < slice_end ? ids[assignment] : -1;
    return id >= 0 && id < num_experts ? id : num_experts;
  };
  for (int i = lane; i < row; i += 32) mine[i] = 0;
  ptx::SyncWarp();
  ptx::GridDependencyWait();

  // 1 Each warp counts the assignments of each expert in its slice.
  for (int i = slice_begin + lane; i < slice_end; i += 32) ptx::AtomicAdd(&mine[expert_of(i)], 1);
  ptx::SyncThreads();

  // 2 A thread per expert: a warp's count becomes that of the warps before, and experts get their
  // places in the list and among the tiles. The thread after the last one finds the totals.
  int count = 0;
  if (thread < num_experts) {
    for (int first = 0; first < num_warps; first += kPlanWarpsAtOnce) {
      int32_t of_warps[kPlanWarpsAtOnce];
#pragma unroll
      for (int w = 0; w < kPlanWarpsAtOnce; ++w) of_warps[w] = counts[(first + w) * row + thread];
#pragma unroll
      for (int w = 0; w < kPlanWarpsAtOnce; ++w) {
        counts[(first + w) * row + thread] = count;
        count += of_warps[w];
      }
    }
  }
  const int num_tiles = (count + plan.tile_tokens - 1) / plan.tile_tokens;
  const uint64_t before =
      SumBefore(static_cast<uint64_t>(num_tiles) << 32 | static_cast<uint64_t>(count), warp_sums);
  if (thread <= num_experts) {
    begins[thread] = static_cast<int32_t>(before & 0xffffffffU);
    tile_begins[thread] = static_cast<int32_t>(before >> 32);
  }
  ptx::SyncThreads();

  // 3 Each warp lists its slice, 32 assignments at a time.
  for (int base = slice_begin; base < slice_end; base += 32) {
    const int expert = expert_of(base + lane);
    const uint32_t alike = LanesAlike(expert, num_experts);
    const int rank = ptx::CountBits(alike & ((1U << lane) - 1));
    if (expert < num_experts) plan.list[begins[expert] + mine[expert] + rank] = base + lane;
    ptx::SyncWarp();
    if (rank == 0) mine[expert] += ptx::CountBits(alike);
    ptx::SyncWarp();
  }

  // 4 A warp per expert cuts its group into tiles; what is left of the tiles is empty.
  for (int expert = warp; expert < num_experts; expert += num_warps) {
    const int expert_tiles = tile_begins[expert + 1] - tile_begins[expert];
    for (int i = lane; i < expert_tiles; i += 32) {
      plan.tiles[tile_begins[expert] + i] = {.expert = expert,
                                             .begin = begins[expert] + i * plan.tile_tokens,
                                             .end = begins[expert + 1]};
    }
  }
  for (int i = tile_begins[num_experts] + thread; i < plan.num_tiles_max; i += num_threads) {
    plan.tiles[i] = {.expert = 0, .begin = 0, .end = 0};
  }
  ptx::GridDependencyLaunch();
}

// --- Products over experts --------------------------------------------------------------------

struct ExpertInputs {
  const Bf16* base;
  const int32_t* list;
  int divisor;  // Assignments that share a row: top_k for up, 1 for down.
  int stride;

  FACET_DEVICE int Offset(int token) const { return list[token] / divisor * stride; }
};

// What linear.cuh multiplies: "tokens" are places in the plan's list.
template <typename EpilogueType>
struct ExpertWork {
  using Epilogue = EpilogueType;
  static constexpr int kMatrices = Epilogue::kMatrices;
  static constexpr bool kWaitsFirst = true;

  const uint4* const* weights;  // [num_experts][kMatrices]
  int num_rows;
  int cols;
  Plan plan;
  ExpertInputs input;
  Epilogue epilogue;

  FACET_DEVICE LinearPlace<kMatrices> Locate(int row_group, int tile, int row_tiles, int) const {
    const Tile at = plan.tiles[tile];
    LinearPlace<kMatrices> place;
    for (int m = 0; m < kMatrices; ++m) place.matrices[m] = weights[at.expert * kMatrices + m];
    place.num_rows = num_rows;
    place.first_row_tile = row_group * row_tiles;
    place.first_token = at.begin;
    place.num_tokens = at.end;
    return place;
  }

  FACET_DEVICE ExpertInputs Inputs(const LinearPlace<kMatrices>&, ptx::SmemArena&) const {
    return input;
  }

  FACET_DEVICE void Store(const LinearPlace<kMatrices>&,
                          int token,
                          int row,
                          const float (&y)[kMatrices]) const {
    epilogue.Store(plan.list[token], row, y);
  }

  size_t InputSmemBytes() const { return 0; }
};

// Tokens of one CTA's tile: enough for the mean expert, so that most weights come from memory once
// and few columns are empty.
int TileTokens(int64_t num_assignments, int num_experts) {
  const int64_t mean = num_assignments / num_experts;
  if (mean < 8) return 8;
  if (mean < 16) return 16;
  if (mean < 32) return 32;
  return mean < 64 ? 64 : 128;
}

template <int kRowTiles, typename Work>
cudaError_t LaunchExperts(const Work& work, cudaStream_t stream) {
  const int row_tiles = static_cast<int>(NumRowTiles(work.num_rows));
  const auto tiles = static_cast<unsigned>(work.plan.num_tiles_max);
  const dim3 grid(static_cast<unsigned>(CeilDiv(row_tiles, kRowTiles)), tiles);
  switch (work.plan.tile_tokens) {
    case 8:
      return LaunchStream<kRowTiles, 1>(work, grid, stream);
    case 16:
      return LaunchStream<kRowTiles, 2>(work, grid, stream);
    case 32:
      return LaunchStream<kRowTiles, 4>(work, grid, stream);
    case 64:
      return LaunchStream<kRowTiles, 8>(work, grid, stream);
    default: {
      using Tiled = TiledTile<Work, 2>;
      static_assert(Tiled::kTokens == 128);
      return LaunchTiled<2>(
          work, dim3(tiles, static_cast<unsigned>(CeilDiv(row_tiles, Tiled::kRowTiles))), stream);
    }
  }
}

// --- Combine ----------------------------------------------------------------------------------

struct CombineArgs {
  const Bf16* out;  // [num_tokens, top_k, cols]
  const int32_t* ids;
  const float* weights;
  int num_experts;
  int top_k;
};

__global__ void __launch_bounds__(kRowThreads) CombineKernel(CombineArgs args, MoeEndArgs end) {
  FACET_SHARED(order, SliceOrder);
  const int64_t token = blockIdx.x;
  ptx::GridDependencyWait();
  OrderChoices(
      args.ids + token * args.top_k, args.top_k,
      [&](int id) { return kExpertSlices * id / args.num_experts; }, order);
  ptx::SyncThreads();
  EndMoeLayer(end, token, [&](int col) {
    RowPair total;
    ForSliceSums(order, args.out + token * args.top_k * end.cols, args.weights + token * args.top_k,
                 end.cols, col, [&](int, RowPair sum) { AddRounded(total, sum); });
    return total;
  });
  ptx::GridDependencyLaunch();
}

}  // namespace

void CudaBackend::DoNormRouterTopK(const NormRouterTopKArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t cols = args.hidden.dim(1);
  const auto num_experts = static_cast<int>(args.router.rows);
  const auto top_k = static_cast<int>(args.topk_ids.dim(1));
  FACET_CHECK_LE(num_experts, kExpertsMax);
  FACET_CHECK_LE(top_k, kTopKMax);
  Bf16* router_in = ScratchFor<Bf16>(Scratch::kNormed, num_tokens * cols);
  Bf16* logits = ScratchFor<Bf16>(Scratch::kProjected, num_tokens * num_experts);
  const RouteNormArgs norms{.hidden = args.hidden.as<Bf16>(),
                            .attention_out = args.attention_out.as<Bf16>(),
                            .post_attention_norm = args.post_attention_norm.as<Bf16>(),
                            .pre_norm = args.pre_norm.as<Bf16>(),
                            .pre_norm_2 = args.pre_norm_2.as<Bf16>(),
                            .router_scale = args.router_scale.as<Bf16>(),
                            .dense_in = args.dense_in.as<Bf16>(),
                            .expert_in = args.expert_in.as<Bf16>(),
                            .router_in = router_in,
                            .cols = static_cast<int>(cols),
                            .size_factor = static_cast<float>(std::pow(cols, -0.5)),
                            .eps = args.eps};
  Check(ptx::Launch({.grid = dim3(static_cast<unsigned>(num_tokens)),
                     .block = dim3(kRowThreads),
                     .smem_bytes = kRowWarps * sizeof(float),
                     .stream = stream_},
                    RouteNormKernel, norms),
        "NormRouterTopK norms");
  auto work = MakeDenseWork("NormRouterTopK", router_in, num_tokens, cols,
                            StoreRounded{logits, num_experts});
  work.weights[0] = ViewOf(args.router);
  Check(LaunchLinear(work, info_.num_sms, stream_), "NormRouterTopK router");
  const TopKArgs choice{.logits = logits,
                        .per_expert_scale = args.per_expert_scale.as<Bf16>(),
                        .ids = args.topk_ids.as<int32_t>(),
                        .weights = args.topk_weights.as<float>(),
                        .num_tokens = static_cast<int>(num_tokens),
                        .num_experts = num_experts,
                        .top_k = top_k};
  const int64_t num_ctas = CeilDiv<int64_t>(num_tokens, kTopKThreads / 32);
  Check(ptx::Launch({.grid = dim3(static_cast<unsigned>(num_ctas)),
                     .block = dim3(kTopKThreads),
                     .stream = stream_},
                    TopKKernel, choice),
        "NormRouterTopK choice");
}

// The plan of some choices, in scratch memory.
struct CudaBackend::Routing {
  Plan plan;
};

CudaBackend::Routing CudaBackend::PlanRouting(const ConstTensorView& topk_ids,
                                              int num_experts,
                                              bool as_planned) {
  FACET_CHECK_LE(num_experts, kExpertsMax);
  const int64_t num_assignments = topk_ids.num_elements();
  const int tile_tokens = TileTokens(num_assignments, num_experts);
  // Every expert that is chosen ends with one tile that may not be full.
  const int64_t num_tiles_max =
      std::min<int64_t>(num_assignments, num_experts + num_assignments / tile_tokens);
  auto* tiles = ScratchFor<Tile>(
      Scratch::kRouting,
      num_tiles_max + CeilDiv(num_assignments * static_cast<int64_t>(sizeof(int32_t)),
                              static_cast<int64_t>(sizeof(Tile))));
  const Plan plan{.list = reinterpret_cast<int32_t*>(tiles + num_tiles_max),
                  .tiles = tiles,
                  .num_assignments = static_cast<int>(num_assignments),
                  .num_tiles_max = static_cast<int>(num_tiles_max),
                  .tile_tokens = tile_tokens};
  const PlannedChoices choices{topk_ids.raw(), num_assignments, num_experts};
  if (as_planned) {
    FACET_CHECK(choices == planned_) << "MoeDown after_up: MoeUp had other ids or experts";
    return {plan};
  }
  planned_ = choices;
  const int num_threads = PlanThreads(num_assignments, num_experts);
  Check(ptx::Launch({.grid = dim3(1),
                     .block = dim3(static_cast<unsigned>(num_threads)),
                     .smem_bytes = PlanSmemBytes(num_threads / 32, num_experts),
                     .stream = stream_},
                    PlanKernel, topk_ids.as<int32_t>(), num_experts, plan),
        "plan of experts");
  return {plan};
}

void CudaBackend::DoMoeUp(const MoeUpArgs& args) {
  const int64_t num_tokens = args.dense_in.dim(0);
  const int64_t cols = args.dense_in.dim(1);
  if (args.expert_in.dim(0) > 0) {
    const int64_t width = args.act.dim(2);
    const Routing routing = PlanRouting(args.topk_ids, static_cast<int>(args.experts.size()),
                                        /*as_planned=*/false);
    const ExpertWork<StoreGatedGelu> work{
        .weights = ExpertPointers(args.experts).up,
        .num_rows = static_cast<int>(width),
        .cols = static_cast<int>(cols),
        .plan = routing.plan,
        .input = {.base = args.expert_in.as<Bf16>(),
                  .list = routing.plan.list,
                  .divisor = static_cast<int>(args.topk_ids.dim(1)),
                  .stride = static_cast<int>(cols)},
        .epilogue = {args.act.as<Bf16>(), width}};
    Check(LaunchExperts<1>(work, stream_), "MoeUp experts");
  }
  if (num_tokens == 0) return;
  auto dense = MakeDenseWork("MoeUp", args.dense_in.raw(), num_tokens, cols,
                             StoreGatedGelu{args.dense_act.as<Bf16>(), args.dense_gate.rows});
  dense.weights[0] = ViewOf(args.dense_gate);
  dense.weights[1] = ViewOf(args.dense_up);
  GatedLinear("MoeUp dense", dense);
}

void CudaBackend::DoMoeDown(const MoeDownArgs& args) {
  const int64_t num_tokens = args.dense_act.dim(0);
  const int64_t hidden = args.dense_out.dim(1);
  if (args.act.dim(0) > 0) {
    const int64_t cols = args.act.dim(2);
    FACET_CHECK_EQ(cols % 8, 0) << "MoeDown: the width of an expert must be a multiple of 8";
    const Routing routing =
        PlanRouting(args.topk_ids, static_cast<int>(args.experts.size()), args.after_up);
    const ExpertWork<StoreRounded> work{.weights = ExpertPointers(args.experts).down,
                                        .num_rows = static_cast<int>(hidden),
                                        .cols = static_cast<int>(cols),
                                        .plan = routing.plan,
                                        .input = {.base = args.act.as<Bf16>(),
                                                  .list = routing.plan.list,
                                                  .divisor = 1,
                                                  .stride = static_cast<int>(cols)},
                                        .epilogue = {args.out.as<Bf16>(), hidden}};
    Check(LaunchExperts<2>(work, stream_), "MoeDown experts");
  }
  if (num_tokens == 0) return;
  auto dense = MakeDenseWork("MoeDown", args.dense_act.raw(), num_tokens, args.dense_down.cols,
                             StoreRounded{args.dense_out.as<Bf16>(), hidden});
  dense.weights[0] = ViewOf(args.dense_down);
  Linear("MoeDown dense", dense);
}

void CudaBackend::DoMoeCombine(const MoeCombineArgs& args) {
  const int64_t cols = args.hidden.dim(1);
  FACET_CHECK_EQ(cols % 2, 0);
  const CombineArgs combine{.out = args.out.as<Bf16>(),
                            .ids = args.topk_ids.as<int32_t>(),
                            .weights = args.topk_weights.as<float>(),
                            .num_experts = args.num_experts,
                            .top_k = static_cast<int>(args.topk_ids.dim(1))};
  Check(ptx::Launch({.grid = dim3(static_cast<unsigned>(args.hidden.dim(0))),
                     .block = dim3(kRowThreads),
                     .smem_bytes = MoeEndSmemBytes(cols),
                     .stream = stream_},
                    CombineKernel, combine, MoeEndOf(args)),
        "MoeCombine");
}

}  // namespace facet::kernels
