// Attention of one layer, in three launches.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/packed_weight.h"
#include "kernels/tensor_view.h"

namespace facet::kernels {

// Tokens of one block of the KV cache, and the tile in which attention sums are taken.
inline constexpr int kBlockTokens = 16;

// Input norm and fused projection:
//   x = round(RmsNorm(hidden) * norm_weight);  qkv[t] = [Wq x, Wk x, Wv x], each rounded.
//
// k and v may be null (shared KV: only q), v alone may be null (K=V). Sums over hidden are float32
// in the order of k, whatever num_tokens is. Source: transformers 5.23.0, Gemma4TextDecoderLayer
// and Gemma4TextAttention.
struct NormQkvArgs {
  ConstTensorView hidden;       // [num_tokens, hidden], f32 or bf16
  ConstTensorView norm_weight;  // [hidden], dtype of hidden
  float eps = 0;
  const PackedWeight* q = nullptr;  // [num_q_heads * head_dim, hidden]
  const PackedWeight* k = nullptr;  // [num_kv_heads * head_dim, hidden]
  const PackedWeight* v = nullptr;  // as k
  TensorView qkv;                   // [num_tokens, rows of q, k and v together]
};

// One sequence's tokens of this step. Rows follow each other in the token dimension.
struct AttentionRow {
  int32_t first_token = 0;     // Place of its first token among the step's tokens.
  int32_t num_tokens = 0;      // ≥ 1
  int64_t first_position = 0;  // Position of its first token in the sequence.
  // blocks[i] holds positions [16 (first_block + i), 16 (first_block + i + 1)).
  int32_t first_block = 0;
  std::span<const int32_t> blocks;
};

// A row as a device reads it; its blocks are blocks[blocks_begin ...] of the batch. Without initial
// values, which shared memory of a device cannot have.
struct DeviceAttentionRow {
  int64_t first_position;
  int32_t first_token;
  int32_t num_tokens;
  int32_t first_block;
  int32_t blocks_begin;
};

// What the layers of one geometry of the cache have in common.
struct AttentionShape {
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int64_t window = 0;  // 0: none.

  bool operator==(const AttentionShape&) const = default;
};

// All rows of a step for one geometry of the cache; made by Backend::StageRows.
struct AttentionBatch {
  std::span<const AttentionRow> rows;
  const DeviceAttentionRow* device_rows = nullptr;  // Null on peers that read host memory.
  const int32_t* device_blocks = nullptr;
  int plan = -1;  // A device's own: which of its plans of this step.
};

// Where one layer's keys and values lie: block b begins at base + b * block_stride bytes; the
// layer's own part is [K, V] with num_kv_heads * head_dim * 16 elements each, laid out as the
// backend likes.
struct KvLayerView {
  std::byte* base = nullptr;
  int64_t block_stride = 0;
};

// q/k/v norms, RoPE, append and attention over the cache, prefill and decode alike.
//
//   q = rope(round(RmsNorm(q)·q_norm)); k = rope(round(RmsNorm(k)·k_norm)); v = round(RmsNorm(v))
//   with v taken from the raw k where the projection has no v. k, v are stored, then
//   out[t, h] = round(softmax_j(q[t, h] · k[j, h / group]) v[j]), j in (pos - window, pos],
// scale 1, float32 scores, sums in tiles of 16 absolute positions merged ascending (online
// softmax). A layer that shares KV brings q only and reads what its donor stored in this same step.
//
// RoPE pairs element i with i + head_dim/2; the angle is the float product position * inv_freq[i],
// cos and sin are rounded to the dtype, as are both products and their sum. inv_freq 0: no turn.
// window 0 means none. Blocks behind the window may be absent from the table (first_block > 0).
// Source: transformers 5.23.0, Gemma4TextAttention, eager; gemma4_checked.md C12.
struct PagedAttentionArgs {
  TensorView qkv;            // [num_tokens, ...] as NormQkv wrote it; overwritten
  ConstTensorView q_norm;    // [head_dim], dtype of qkv
  ConstTensorView k_norm;    // [head_dim]; unused without k
  ConstTensorView inv_freq;  // [head_dim / 2], f32
  float eps = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  bool has_kv = true;  // qkv holds k (and v unless k_eq_v): store them.
  bool k_eq_v = false;
  int64_t window = 0;
  AttentionBatch batch;
  KvLayerView kv;
  TensorView out;  // [num_tokens, num_q_heads * head_dim], dtype of qkv
};

// out = round(W attention).
struct OutputProjArgs {
  ConstTensorView attention;   // [num_tokens, num_q_heads * head_dim], f32 or bf16
  const PackedWeight& weight;  // [hidden, num_q_heads * head_dim]
  TensorView out;              // [num_tokens, hidden]
};

}  // namespace facet::kernels
