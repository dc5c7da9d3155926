// The committed tokens of one request. A token counts from the moment it stands here; whatever
// worker made it may be lost after that.
//
// Frames of an older attempt (epoch) and frames that would leave a gap or repeat a token do not fit
// and change nothing. Owned by a relay shard.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace facet::router {

class TokenLog {
 public:
  enum class Fit { kFits, kOtherEpoch, kWrongPosition };

  // Holds at most tokens_max tokens.
  explicit TokenLog(int32_t tokens_max) : tokens_max_(tokens_max) {}

  // Begins the next attempt; the first one has epoch 1.
  uint32_t BeginEpoch() { return ++epoch_; }

  uint32_t epoch() const { return epoch_; }

  // Appends ids if epoch is the present one, first_position is the next place and all of them have
  // room; an empty ids only needs the epoch to fit.
  Fit Append(uint32_t epoch, uint32_t first_position, std::span<const int32_t> ids);

  const std::vector<int32_t>& ids() const { return ids_; }

  int32_t size() const { return static_cast<int32_t>(ids_.size()); }

 private:
  int32_t tokens_max_;
  uint32_t epoch_ = 0;
  std::vector<int32_t> ids_;
};

}  // namespace facet::router
