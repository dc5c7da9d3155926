// Where things lie in the blocks that ranks exchange: room for a fixed number of rows, and how many
// of them mean something. For one block to or from each rank, block r begins r * block_bytes() into
// the buffer.
//
//   block  [ count, int32 | padding to 64 bytes | row 0 | row 1 | … | row capacity - 1 | padding ]
#pragma once

#include <cstdint>

#include "base/math.h"

namespace facet::kernels {

struct BlockLayout {
  static constexpr int64_t kAlignment = 64;  // Of blocks and of the first row, for vector loads.

  int64_t capacity = 0;  // Rows that a block has room for.
  int64_t row_bytes = 0;

  constexpr int64_t RowOffset(int64_t row) const { return kAlignment + row * row_bytes; }

  constexpr int64_t block_bytes() const { return RoundUp(RowOffset(capacity), kAlignment); }
};

}  // namespace facet::kernels
