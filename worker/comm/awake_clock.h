// How long a process has been running, as far as its own ticks have seen time pass.
#pragma once

#include <algorithm>
#include <cstdint>

namespace facet::worker {

// While a process stands still it can hear nobody, and perhaps the whole machine stands still: such
// time is no silence of others. A tick therefore counts for kTickNsMax at most, however late it is.
class AwakeClock {
 public:
  // The time of a tick, due every few tens of milliseconds; returns the time awake, from 0.
  int64_t Advance(int64_t now_ns) {
    if (last_ns_ != 0) awake_ns_ += std::min(now_ns - last_ns_, kTickNsMax);
    last_ns_ = now_ns;
    return awake_ns_;
  }

 private:
  static constexpr int64_t kTickNsMax = 80'000'000;

  int64_t last_ns_ = 0;
  int64_t awake_ns_ = 0;
};

}  // namespace facet::worker
