// Products with packed weights, cut into tiles that threads claim.
//
// A tile is some rows times up to 64 outputs; its sums land in the thread's scratch and an epilogue
// (rounding, GELU, soft-cap) carries them to their place. How the work is cut changes no value.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/math.h"
#include "kernels/cpu/primitives.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/packed_weight.h"

namespace facet::kernels {

// The sums of one tile: y[r, i] of rows [first_row, first_row + num_rows) and outputs
// [first_output, first_output + num_outputs).
struct TileSums {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t first_output = 0;
  int64_t num_outputs = 0;
  const float* y = nullptr;
  int64_t y_stride = 0;
};

// Row pointers of a matrix of T, for GemmTile::x.
template <typename T>
std::vector<const void*> RowPointers(const T* data, int64_t num_rows, int64_t width) {
  std::vector<const void*> rows(num_rows);
  for (int64_t r = 0; r < num_rows; ++r) rows[r] = data + r * width;
  return rows;
}

class TiledLinear {
 public:
  static constexpr int64_t kPanels = 4;
  static constexpr int64_t kOutputs = kPanels * kPanelOutputs;
  static constexpr int64_t kRows = 48;

  static int64_t NumGroups(const PackedWeight& weight) { return CeilDiv(weight.rows, kOutputs); }

  // Computes group g (outputs [64 g, 64 g + 64)) of weight for num_rows rows into y.
  template <typename T>
  static TileSums Compute(const Primitives& primitives,
                          const PackedWeight& weight,
                          const void* const* rows,
                          int64_t first_row,
                          int64_t num_rows,
                          int64_t group,
                          float* y) {
    const int64_t num_panels =
        std::min(kPanels, CeilDiv<int64_t>(weight.rows, kPanelOutputs) - group * kPanels);
    const int64_t panel_bytes = weight.cols * kPanelOutputs * static_cast<int64_t>(sizeof(T));
    const GemmTile tile{
        .x = rows + first_row,
        .num_rows = num_rows,
        .panels = static_cast<const std::byte*>(weight.data.data()) + group * kPanels * panel_bytes,
        .num_panels = num_panels,
        .depth = std::is_same_v<T, Bf16> ? weight.cols / 2 : weight.cols,
        .y = y,
        .y_stride = kOutputs};
    if constexpr (std::is_same_v<T, Bf16>) {
      primitives.gemm_bf16(tile);
    } else {
      primitives.gemm_f32(tile);
    }
    return TileSums{.first_row = first_row,
                    .num_rows = num_rows,
                    .first_output = group * kOutputs,
                    .num_outputs = std::min(kOutputs, weight.rows - group * kOutputs),
                    .y = y,
                    .y_stride = kOutputs};
  }
};

// out[r, first_column + i] = round(dot), rows of out out_stride apart.
template <typename T>
void StoreRounded(const TileSums& sums, T* out, int64_t out_stride, int64_t first_column) {
  for (int64_t r = 0; r < sums.num_rows; ++r) {
    T* to = out + (sums.first_row + r) * out_stride + first_column + sums.first_output;
    Narrow(sums.y + r * sums.y_stride, sums.num_outputs, to);
  }
}

// One product of a step's rows with a weight, its outputs going through epilogue(TileSums).
template <typename T, typename Epilogue>
void Linear(ThreadPool& pool,
            const Primitives& primitives,
            ThreadScratch& scratch,
            const std::vector<const void*>& rows,
            const PackedWeight& weight,
            const Epilogue& epilogue) {
  const auto num_rows = static_cast<int64_t>(rows.size());
  const int64_t num_groups = TiledLinear::NumGroups(weight);
  const int64_t row_blocks = CeilDiv(num_rows, TiledLinear::kRows);
  pool.For(num_groups * row_blocks, [&](int64_t item, int thread) {
    const int64_t first_row = item % row_blocks * TiledLinear::kRows;
    float* y = scratch.Floats(thread, TiledLinear::kRows * TiledLinear::kOutputs);
    epilogue(TiledLinear::Compute<T>(primitives, weight, rows.data(), first_row,
                                     std::min(TiledLinear::kRows, num_rows - first_row),
                                     item / row_blocks, y));
  });
}

// act = round(round(gelu(round(gate x))) · round(up x)): both products of a tile in one visit.
// rows are the inputs; row r goes to out_rows[r].
template <typename T>
void GatedGeluTile(const Primitives& primitives,
                   ThreadScratch& scratch,
                   int thread,
                   const void* const* rows,
                   int64_t first_row,
                   int64_t num_rows,
                   const PackedWeight& gate,
                   const PackedWeight& up,
                   int64_t group,
                   T* const* out_rows) {
  constexpr int64_t kSize = TiledLinear::kRows * TiledLinear::kOutputs;
  float* y = scratch.Floats(thread, 2 * kSize);
  const TileSums gates =
      TiledLinear::Compute<T>(primitives, gate, rows, first_row, num_rows, group, y);
  const TileSums ups =
      TiledLinear::Compute<T>(primitives, up, rows, first_row, num_rows, group, y + kSize);
  for (int64_t r = 0; r < num_rows; ++r) {
    T* to = out_rows[first_row + r] + gates.first_output;
    if constexpr (std::is_same_v<T, Bf16>) {
      primitives.gated_gelu_bf16(gates.y + r * gates.y_stride, ups.y + r * ups.y_stride,
                                 gates.num_outputs, to);
    } else {
      primitives.gated_gelu_f32(gates.y + r * gates.y_stride, ups.y + r * ups.y_stride,
                                gates.num_outputs, to);
    }
  }
}

template <typename T>
void GatedGelu(ThreadPool& pool,
               const Primitives& primitives,
               ThreadScratch& scratch,
               const std::vector<const void*>& rows,
               const PackedWeight& gate,
               const PackedWeight& up,
               T* out,
               int64_t out_stride) {
  const auto num_rows = static_cast<int64_t>(rows.size());
  std::vector<T*> out_rows(num_rows);
  for (int64_t r = 0; r < num_rows; ++r) out_rows[r] = out + r * out_stride;
  const int64_t row_blocks = CeilDiv(num_rows, TiledLinear::kRows);
  pool.For(TiledLinear::NumGroups(gate) * row_blocks, [&](int64_t item, int thread) {
    const int64_t first_row = item % row_blocks * TiledLinear::kRows;
    GatedGeluTile<T>(primitives, scratch, thread, rows.data(), first_row,
                     std::min(TiledLinear::kRows, num_rows - first_row), gate, up,
                     item / row_blocks, out_rows.data());
  });
}

}  // namespace facet::kernels
