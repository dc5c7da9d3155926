// The pieces of a tokenizer and their ids: both directions, immutable once built.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace facet {

class Vocabulary {
 public:
  // pieces[i] has id i; an empty string is a hole: an id that stands for nothing. A piece that
  // occurs twice is refused.
  static StatusOr<Vocabulary> Build(const std::vector<std::string>& pieces);

  // One more than the largest id.
  int32_t size() const { return static_cast<int32_t>(starts_.size()) - 1; }

  // Empty for a hole. id in [0, size()).
  std::string_view Piece(int32_t id) const {
    return std::string_view(arena_).substr(starts_[id], starts_[id + 1] - starts_[id]);
  }

  std::optional<int32_t> Find(std::string_view piece) const;

 private:
  size_t Slot(std::string_view piece) const;

  std::string arena_;                // All pieces, one after the other.
  std::vector<uint32_t> starts_{0};  // size() + 1 offsets into the arena.
  std::vector<int32_t> slots_;  // Open addressing; -1 is free. A power of two, at most half full.
};

}  // namespace facet
