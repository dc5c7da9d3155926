// A clock that stands until a test moves it.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/clock.h"

namespace facet::testing {

class FakeClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_; }

  int64_t UnixNs() const override { return kStartUnixNs + now_ns_; }

  void AdvanceMs(int64_t ms) { now_ns_ += ms * 1'000'000; }

 private:
  static constexpr int64_t kStartUnixNs = 1'800'000'000'000'000'000;

  std::atomic<int64_t> now_ns_{1'000'000'000};
};

}  // namespace facet::testing
