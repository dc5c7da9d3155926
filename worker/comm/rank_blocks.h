// The blocks that Dispatch and Combine carry: room for a fixed number of rows, and how many of them
// mean something.
//
//   block  [ count, int32 | padding to 64 bytes | row 0 | row 1 | … | row capacity - 1 ]
//
// The count travels inside the block and is the only word of it that hosts check. Here is where a
// count above the capacity becomes an error: at the writer before anything travels, so that no row
// is dropped, and at the reader, which trusts no peer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.h"
#include "base/math.h"
#include "base/status.h"

namespace facet::worker {

class RankBlocks {
 public:
  static constexpr int64_t kAlignment = 64;  // Of rows, for vector loads.

  // capacity: rows that one rank may send another in one call.
  RankBlocks(int32_t num_ranks, int32_t capacity, int64_t row_bytes)
      : num_ranks_(num_ranks),
        capacity_(capacity),
        row_bytes_(row_bytes),
        block_bytes_(kAlignment + RoundUp(capacity * row_bytes, kAlignment)) {}

  int64_t block_bytes() const { return block_bytes_; }

  // Of the buffer for all ranks.
  int64_t num_bytes() const { return block_bytes_ * num_ranks_; }

  // RESOURCE_EXHAUSTED, and the block left as it was, if count rows have no room.
  Status SetCount(std::span<std::byte> blocks, int32_t rank, int64_t count) const {
    if (count > capacity_) {
      return ResourceExhausted("rows for rank ", rank, " are ", count, "; a block holds at most ",
                               capacity_);
    }
    FACET_CHECK_GE(count, 0);
    const auto word = static_cast<int32_t>(count);
    std::memcpy(blocks.data() + Offset(blocks.size(), rank), &word, sizeof word);
    return absl::OkStatus();
  }

  // DATA_LOSS if the rank wrote a count that no block holds.
  StatusOr<int32_t> CountOf(std::span<const std::byte> blocks, int32_t rank) const {
    int32_t count = 0;
    std::memcpy(&count, blocks.data() + Offset(blocks.size(), rank), sizeof count);
    if (count < 0 || count > capacity_) {
      return absl::DataLossError(StrCat("rows from rank ", rank, " are said to be ", count,
                                        "; a block holds at most ", capacity_));
    }
    return count;
  }

  // [capacity][row_bytes] of one rank's block.
  std::span<std::byte> Rows(std::span<std::byte> blocks, int32_t rank) const {
    return blocks.subspan(Offset(blocks.size(), rank) + kAlignment, capacity_ * row_bytes_);
  }

 private:
  int64_t Offset(size_t blocks_bytes, int32_t rank) const {
    FACET_CHECK_EQ(static_cast<int64_t>(blocks_bytes), num_bytes());
    FACET_CHECK(rank >= 0 && rank < num_ranks_) << rank;
    return rank * block_bytes_;
  }

  int32_t num_ranks_;
  int32_t capacity_;
  int64_t row_bytes_;
  int64_t block_bytes_;
};

}  // namespace facet::worker
