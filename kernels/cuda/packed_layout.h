// How a bfloat16 weight matrix [rows, cols] lies in device memory: as the A fragments of mma.sync
// m16n8k16, so that a lane's 16-byte load is one instruction's operand and a warp's is 512
// contiguous bytes. Rows are filled up to tiles of 16 and columns to blocks of 32 with zeros.
//
//   [row tile of 16][k block of 32][step s of 2][lane of 32][register a0..a3][2 elements]
//
// Inside a block, k is dealt out so that a lane's part of the other operand is 16 contiguous bytes
// of a row-major activation: lane (g, t) = (lane / 4, lane % 4) owns k = 8t .. 8t + 7; step s
// multiplies 8t + 4s + {0, 1} as the instruction's columns 2t, 2t + 1 and 8t + 4s + {2, 3} as 2t +
// 8, 2t + 9. A sum over k is the same whatever the dealing, and its order is fixed by it.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace facet::kernels {

inline constexpr int kTileRows = 16;
inline constexpr int kBlockCols = 32;
inline constexpr int kBlockElements = kTileRows * kBlockCols;

FACET_ALWAYS_INLINE constexpr int64_t NumRowTiles(int64_t rows) {
  return (rows + kTileRows - 1) / kTileRows;
}

FACET_ALWAYS_INLINE constexpr int64_t NumColBlocks(int64_t cols) {
  return (cols + kBlockCols - 1) / kBlockCols;
}

FACET_ALWAYS_INLINE constexpr int64_t PackedElements(int64_t rows, int64_t cols) {
  return NumRowTiles(rows) * NumColBlocks(cols) * kBlockElements;
}

// Place of element (row, col) in a packed matrix of num_col_blocks blocks a row.
FACET_ALWAYS_INLINE constexpr int64_t PackedIndex(int64_t row,
                                                  int64_t col,
                                                  int64_t num_col_blocks) {
  const int64_t block = row / kTileRows * num_col_blocks + col / kBlockCols;
  const int64_t row_in_tile = row % kTileRows;
  const int64_t col_in_block = col % kBlockCols;
  const int64_t lane = row_in_tile % 8 * 4 + col_in_block / 8;
  const int64_t step = col_in_block % 8 / 4;
  const int64_t reg = row_in_tile / 8 + col_in_block % 4 / 2 * 2;
  return block * kBlockElements + ((step * 32 + lane) * 4 + reg) * 2 + col_in_block % 2;
}

}  // namespace facet::kernels
