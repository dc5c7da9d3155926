#include "router/token_log.h"

namespace facet::router {

TokenLog::Fit TokenLog::Append(uint32_t epoch,
                               uint32_t first_position,
                               std::span<const int32_t> ids) {
  if (epoch != epoch_) return Fit::kOtherEpoch;
  if (ids.empty()) return Fit::kFits;
  const size_t room = static_cast<size_t>(tokens_max_) - ids_.size();
  if (first_position != ids_.size() || ids.size() > room) return Fit::kWrongPosition;
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  return Fit::kFits;
}

}  // namespace facet::router
