// The inner loops of the CPU backend, once for each tier of instructions.
//
// A tier is a table of functions compiled with its own flags and chosen at run time. In every tier
// the sum for one output runs over k ascending, alone, so that it depends on neither the number of
// rows nor of threads. Tiers differ from each other in the last bits: the tier is in the numerics
// id.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dtype.h"

namespace facet::kernels {

// Outputs of a panel: weights are packed as [panel][k][16] (f32) or [panel][k / 2][16][2] (bf16).
inline constexpr int kPanelOutputs = 16;

// y[r][16 p + i] = dot(x[r], output i of panel p). depth counts k (f32) or pairs of k (bf16).
struct GemmTile {
  const void* const* x = nullptr;  // Row pointers: [num_rows] to depth elements.
  int64_t num_rows = 0;
  const void* panels = nullptr;  // First panel; panels follow each other.
  int64_t num_panels = 0;
  int64_t depth = 0;
  float* y = nullptr;  // [num_rows, y_stride]
  int64_t y_stride = 0;
};

// Attention of the q heads that share one KV head, for one token.
struct AttendTile {
  const void* q = nullptr;  // [group, head_dim], dtype of the cache
  int group = 0;
  int head_dim = 0;
  int64_t first = 0;  // Visible positions: [first, position].
  int64_t position = 0;
  // Block i of the table begins at base + blocks[i - first_block] * block_stride; in it this head's
  // keys lie at k_offset as [head_dim][16] (f32) or [head_dim / 2][16][2] (bf16), its values at
  // v_offset as [16][head_dim].
  const std::byte* base = nullptr;
  int64_t block_stride = 0;
  const int32_t* blocks = nullptr;
  int32_t first_block = 0;
  int64_t k_offset = 0;
  int64_t v_offset = 0;
  float* out = nullptr;  // [group, head_dim]
};

struct Primitives {
  const char* name;
  void (*gemm_f32)(const GemmTile& tile);
  void (*gemm_bf16)(const GemmTile& tile);
  void (*attend_f32)(const AttendTile& tile);
  void (*attend_bf16)(const AttendTile& tile);
  float (*sum_squares)(const float* x, int64_t size);
  // y[i] = round(round(gelu(round(gate[i]))) * round(up[i]))
  void (*gated_gelu_f32)(const float* gate, const float* up, int64_t size, float* y);
  void (*gated_gelu_bf16)(const float* gate, const float* up, int64_t size, Bf16* y);
};

const Primitives& ScalarPrimitives();
const Primitives& Avx2Primitives();
const Primitives& Avx512Primitives();

}  // namespace facet::kernels
