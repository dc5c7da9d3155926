// Blocks of rows (kernels/rank_blocks.h) in the buffers of Dispatch, for hosts.
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
#include "base/status.h"
#include "kernels/rank_blocks.h"

namespace facet::worker {

class RankBlocks {
 public:
  // Capacity: rows that one rank may send another in one call.
  RankBlocks(int32_t num_ranks, const kernels::BlockLayout& layout)
      : num_ranks_(num_ranks), layout_(layout) {}

  int64_t block_bytes() const { return layout_.block_bytes(); }

  // Of the buffer for all ranks.
  int64_t num_bytes() const { return block_bytes() * num_ranks_; }

  // RESOURCE_EXHAUSTED, and the block left as it was, if count rows have no room.
  Status SetCount(std::span<std::byte> blocks, int32_t rank, int64_t count) const {
    if (count > layout_.capacity) {
      return ResourceExhausted("rows for rank ", rank, " are ", count, "; a block holds at most ",
                               layout_.capacity);
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
    if (count < 0 || count > layout_.capacity) {
      return absl::DataLossError(StrCat("rows from rank ", rank, " are said to be ", count,
                                        "; a block holds at most ", layout_.capacity));
    }
    return count;
  }

  // [capacity][row_bytes] of one rank's block.
  std::span<std::byte> Rows(std::span<std::byte> blocks, int32_t rank) const {
    return blocks.subspan(Offset(blocks.size(), rank) + layout_.RowOffset(0),
                          layout_.capacity * layout_.row_bytes);
  }

 private:
  int64_t Offset(size_t blocks_bytes, int32_t rank) const {
    FACET_CHECK_EQ(static_cast<int64_t>(blocks_bytes), num_bytes());
    FACET_CHECK(rank >= 0 && rank < num_ranks_) << rank;
    return rank * block_bytes();
  }

  int32_t num_ranks_;
  kernels::BlockLayout layout_;
};

}  // namespace facet::worker
