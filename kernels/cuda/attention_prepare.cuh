// What comes before attention: norms of q, k and v, turns of q and k, and k and v into the cache.
#pragma once

#include <cstdint>

#include "kernels/approx.h"
#include "kernels/attention.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/row_norm.cuh"
#include "kernels/dtype.h"

namespace facet::kernels::attention {

struct PrepareParams {
  Bf16* qkv;
  const Bf16* q_norm;
  const Bf16* k_norm;
  const float* inv_freq;
  float eps;
  int32_t num_q_heads;
  int32_t num_kv_heads;
  int32_t num_kv_parts;  // What qkv holds after q: 0 nothing, 1 k, 2 k and v.
  int32_t num_tokens;
  const DeviceAttentionRow* rows;
  int32_t num_rows;
  const int32_t* blocks;
  std::byte* kv;
  int64_t block_stride;
};

inline constexpr int kPrepareWarps = 8;

// One warp's head: element i of the first half and of the second are in the same lane.
template <int kHeadDim>
struct HeadLanes {
  static constexpr int kHalf = kHeadDim / 2;
  static constexpr int kRun = kHalf > 32 ? kHalf / 32 : 1;

  struct alignas(sizeof(Bf16) * kRun) Run {
    Bf16 element[kRun];
  };

  // Lanes beyond a small head hold zeros.
  FACET_DEVICE static int First() { return static_cast<int>(threadIdx.x % 32) * kRun; }

  FACET_DEVICE static bool Present() { return First() < kHalf; }

  FACET_DEVICE void Load(const Bf16* head) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Run run{};
      if (Present()) run = *reinterpret_cast<const Run*>(head + half * kHalf + First());
#pragma unroll
      for (int i = 0; i < kRun; ++i) x[half][i] = ToFloat(run.element[i]);
    }
  }

  FACET_DEVICE void Store(Bf16* head) const {
    if (!Present()) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Run run;
#pragma unroll
      for (int i = 0; i < kRun; ++i) run.element[i] = ToBf16(x[half][i]);
      *reinterpret_cast<Run*>(head + half * kHalf + First()) = run;
    }
  }

  // weight may be null. The sum of squares: each lane's elements in order, then a butterfly.
  FACET_DEVICE void Norm(const Bf16* weight, float eps) {
    float sum = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) sum += x[half][i] * x[half][i];
    }
    const float scale = RmsScale(WarpSum(sum), kHeadDim, eps);
    HeadLanes weights;
    if (weight != nullptr) weights.Load(weight);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const float factor = weight != nullptr ? weights.x[half][i] : 1.0F;
        x[half][i] = RoundToBf16(x[half][i] * scale * factor);
      }
    }
  }

  FACET_DEVICE void Turn(int64_t position, const float* inv_freq) {
    if (!Present()) return;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      float sin;
      float cos;
      ApproxSinCos(static_cast<float>(position) * inv_freq[First() + i], sin, cos);
      sin = RoundToBf16(sin);
      cos = RoundToBf16(cos);
      const float a = x[0][i];
      const float b = x[1][i];
      x[0][i] = RoundToBf16(RoundToBf16(a * cos) - RoundToBf16(b * sin));
      x[1][i] = RoundToBf16(RoundToBf16(b * cos) + RoundToBf16(a * sin));
    }
  }

  float x[2][kRun];
};

// The last of the rows that begins at or before token.
FACET_DEVICE DeviceAttentionRow RowOfToken(const PrepareParams& params, int32_t token) {
  int32_t low = 0;
  int32_t high = params.num_rows - 1;
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (params.rows[middle].first_token <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return params.rows[low];
}

// Each warp makes one head of one token ready: q in place, k and v into the cache.
template <int kHeadDim>
__global__ void __launch_bounds__(kPrepareWarps * 32) PrepareQkv(const PrepareParams params) {
  const int32_t num_kv = params.num_kv_heads;
  // With K = V the raw k serves twice, so that there are always as many v as k.
  const int32_t num_heads = params.num_q_heads + (params.num_kv_parts == 0 ? 0 : 2 * num_kv);
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kPrepareWarps + threadIdx.x / 32;
  const auto token = static_cast<int32_t>(item / num_heads);
  const auto head = static_cast<int32_t>(item % num_heads);
  ptx::GridDependencyWait();
  if (token >= params.num_tokens) return;
  const DeviceAttentionRow row = RowOfToken(params, token);
  const int64_t position = row.first_position + (token - row.first_token);
  const int64_t width =
      static_cast<int64_t>(params.num_q_heads + params.num_kv_parts * num_kv) * kHeadDim;
  Bf16* token_heads = params.qkv + token * width;
  HeadLanes<kHeadDim> lanes;
  if (head < params.num_q_heads) {
    Bf16* q = token_heads + head * kHeadDim;
    lanes.Load(q);
    lanes.Norm(params.q_norm, params.eps);
    lanes.Turn(position, params.inv_freq);
    lanes.Store(q);
  } else {
    const int32_t place = head - params.num_q_heads;  // Among [K heads, V heads] of a block.
    const bool is_k = place < num_kv;
    const int32_t source = params.num_kv_parts == 2 ? place : place % num_kv;
    lanes.Load(token_heads + (params.num_q_heads + source) * kHeadDim);
    lanes.Norm(is_k ? params.k_norm : nullptr, params.eps);
    if (is_k) lanes.Turn(position, params.inv_freq);
    const int32_t block =
        params.blocks[row.blocks_begin + position / kBlockTokens - row.first_block];
    auto* cache = reinterpret_cast<Bf16*>(params.kv + block * params.block_stride);
    lanes.Store(cache + (place * kBlockTokens + position % kBlockTokens) * kHeadDim);
  }
  ptx::GridDependencyLaunch();
}

}  // namespace facet::kernels::attention
