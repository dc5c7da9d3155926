#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/linear.h"

namespace facet::kernels {
namespace {

// cos and sin of one position's angles, rounded to the dtype: [head_dim / 2] each.
template <typename T>
void Angles(const ConstTensorView& inv_freq, int64_t position, float* cos, float* sin) {
  for (int64_t i = 0; i < inv_freq.dim(0); ++i) {
    const double angle = static_cast<float>(position) * inv_freq.as<float>()[i];
    cos[i] = Rounded<T>(static_cast<float>(std::cos(angle)));
    sin[i] = Rounded<T>(static_cast<float>(std::sin(angle)));
  }
}

template <typename T>
void Rope(float* x, int64_t half, const float* cos, const float* sin) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    x[i] = Rounded<T>(Rounded<T>(a * cos[i]) - Rounded<T>(b * sin[i]));
    x[i + half] = Rounded<T>(Rounded<T>(b * cos[i]) + Rounded<T>(a * sin[i]));
  }
}

// Elements of one layer's part of a block, for one KV head: keys as the panels that scores read,
// values as rows.
template <typename T>
struct HeadLayout {
  int64_t head_dim;
  int64_t num_kv_heads;

  int64_t HeadElements() const { return head_dim * kBlockTokens; }

  int64_t KeyOffset(int head) const { return head * HeadElements(); }

  int64_t ValueOffset(int head) const { return (num_kv_heads + head) * HeadElements(); }

  void StoreKey(T* block, int head, int64_t slot, const float* k) const {
    T* keys = block + KeyOffset(head);
    for (int64_t d = 0; d < head_dim; ++d) {
      const int64_t i = std::is_same_v<T, Bf16> ? (d / 2 * kBlockTokens + slot) * 2 + d % 2
                                                : d * kBlockTokens + slot;
      keys[i] = FromFloat<T>(k[d]);
    }
  }

  void StoreValue(T* block, int head, int64_t slot, const float* v) const {
    Narrow(v, head_dim, block + ValueOffset(head) + slot * head_dim);
  }
};

// Where each of the step's tokens stands.
struct TokenPlace {
  const AttentionRow* row;
  int64_t position;
};

std::vector<TokenPlace> PlacesOf(std::span<const AttentionRow> rows) {
  std::vector<TokenPlace> places;
  for (const AttentionRow& row : rows) {
    for (int32_t i = 0; i < row.num_tokens; ++i) {
      places.push_back({.row = &row, .position = row.first_position + i});
    }
  }
  return places;
}

// Norms, turns and stores what one token brings; q stays in qkv.
template <typename T>
void PrepareToken(const PagedAttentionArgs& args,
                  const Primitives& primitives,
                  const TokenPlace& place,
                  T* token,
                  float* scratch) {
  const int64_t d = args.head_dim;
  float* cos = scratch;
  float* sin = cos + d / 2;
  float* x = sin + d / 2;
  float* v = x + d;
  Angles<T>(args.inv_freq, place.position, cos, sin);
  for (int head = 0; head < args.num_q_heads; ++head) {
    T* q = token + head * d;
    Widen(q, d, x);
    RmsNormRow(primitives, x, args.q_norm.as<T>(), d, args.eps, x);
    Rope<T>(x, d / 2, cos, sin);
    Narrow(x, d, q);
  }
  if (!args.has_kv) return;
  const HeadLayout<T> layout{.head_dim = d, .num_kv_heads = args.num_kv_heads};
  const int32_t block = place.row->blocks[place.position / kBlockTokens - place.row->first_block];
  T* data = reinterpret_cast<T*>(args.kv.base + block * args.kv.block_stride);
  const int64_t slot = place.position % kBlockTokens;
  for (int head = 0; head < args.num_kv_heads; ++head) {
    const T* k = token + (args.num_q_heads + head) * d;
    Widen(args.k_eq_v ? k : k + args.num_kv_heads * d, d, v);
    RmsNormRow<T>(primitives, v, nullptr, d, args.eps, v);
    layout.StoreValue(data, head, slot, v);
    Widen(k, d, x);
    RmsNormRow(primitives, x, args.k_norm.as<T>(), d, args.eps, x);
    Rope<T>(x, d / 2, cos, sin);
    layout.StoreKey(data, head, slot, x);
  }
}

}  // namespace

void CpuBackend::DoNormQkv(const NormQkvArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const int64_t width = args.qkv.dim(1);
  WithElement(args.hidden.dtype(), [&]<typename T>() {
    T* normed = rows_.As<T>(num_tokens * hidden);
    pool_.For(num_tokens, [&](int64_t t, int thread) {
      float* x = scratch_.Floats(thread, hidden);
      Widen(args.hidden.as<T>() + t * hidden, hidden, x);
      RmsNormRow(primitives_, x, args.norm_weight.as<T>(), hidden, args.eps, normed + t * hidden);
    });
    const std::vector<const void*> rows = RowPointers(normed, num_tokens, hidden);
    int64_t column = 0;
    for (const PackedWeight* weight : {args.q, args.k, args.v}) {
      if (weight == nullptr) continue;
      Linear<T>(pool_, primitives_, scratch_, rows, *weight,
                [&](const TileSums& sums) { StoreRounded(sums, args.qkv.as<T>(), width, column); });
      column += weight->rows;
    }
  });
}

void CpuBackend::DoPagedAttention(const PagedAttentionArgs& args) {
  const int64_t width = args.qkv.dim(1);
  const int64_t d = args.head_dim;
  const int64_t group = args.num_q_heads / args.num_kv_heads;
  const std::vector<TokenPlace> places = PlacesOf(args.batch.rows);
  const auto num_tokens = static_cast<int64_t>(places.size());
  WithElement(args.qkv.dtype(), [&]<typename T>() {
    T* qkv = args.qkv.as<T>();
    pool_.For(num_tokens, [&](int64_t t, int thread) {
      PrepareToken<T>(args, primitives_, places[t], qkv + t * width,
                      scratch_.Floats(thread, 3 * d));
    });
    const HeadLayout<T> layout{.head_dim = d, .num_kv_heads = args.num_kv_heads};
    pool_.For(num_tokens * args.num_kv_heads, [&](int64_t item, int thread) {
      const int64_t t = item / args.num_kv_heads;
      const int head = static_cast<int>(item % args.num_kv_heads);
      const TokenPlace& place = places[t];
      float* out = scratch_.Floats(thread, group * d);
      const AttendTile tile{
          .q = qkv + t * width + head * group * d,
          .group = static_cast<int>(group),
          .head_dim = args.head_dim,
          .first = args.window == 0 ? 0 : std::max<int64_t>(0, place.position - args.window + 1),
          .position = place.position,
          .base = args.kv.base,
          .block_stride = args.kv.block_stride,
          .blocks = place.row->blocks.data(),
          .first_block = place.row->first_block,
          .k_offset = layout.KeyOffset(head) * static_cast<int64_t>(sizeof(T)),
          .v_offset = layout.ValueOffset(head) * static_cast<int64_t>(sizeof(T)),
          .out = out};
      if constexpr (std::is_same_v<T, Bf16>) {
        primitives_.attend_bf16(tile);
      } else {
        primitives_.attend_f32(tile);
      }
      Narrow(out, group * d, args.out.as<T>() + (t * args.num_q_heads + head * group) * d);
    });
  });
}

void CpuBackend::DoOutputProj(const OutputProjArgs& args) {
  WithElement(args.out.dtype(), [&]<typename T>() {
    Linear<T>(pool_, primitives_, scratch_,
              RowPointers(args.attention.as<T>(), args.attention.dim(0), args.attention.dim(1)),
              args.weight, [&](const TileSums& sums) {
                StoreRounded(sums, args.out.as<T>(), args.weight.rows, 0);
              });
  });
}

}  // namespace facet::kernels
