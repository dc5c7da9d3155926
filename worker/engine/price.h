// What a device costs: a price per hour with dates, and the integral of it over time.
//
// Money is integer nano-USD. A price times a time is kept exactly, in nano-USD × ns / h, and
// rounded down where a running total is read; a span costs the difference of two totals. So spans
// that follow each other cost together what the whole does, however they were cut.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "base/status.h"

namespace facet::worker {

// From this instant on, until the next one.
struct DatedPrice {
  int64_t from_unix_ns = std::numeric_limits<int64_t>::min();
  int64_t nano_usd_per_hour = 0;

  bool operator==(const DatedPrice&) const = default;
};

class PriceSchedule {
 public:
  PriceSchedule() : PriceSchedule(0) {}

  // Always the same price, rounded to a nano-USD. CHECK-fails below 0 or above 1e9.
  explicit PriceSchedule(double usd_per_hour);

  // INVALID_ARGUMENT names the entry: the first holds from the beginning of time (the smallest
  // int64), instants rise, prices are from 0 to 1e18 nano-USD per hour.
  static StatusOr<PriceSchedule> Create(std::vector<DatedPrice> prices);

  const std::vector<DatedPrice>& prices() const { return prices_; }

  int64_t NanoUsdPerHourAt(int64_t unix_ns) const;

  // ∫ price over [from, until), in nano-USD × ns / h.
  __int128 Integral(int64_t from_unix_ns, int64_t until_unix_ns) const;

 private:
  std::vector<DatedPrice> prices_;
};

// A running total of money. Copies go on by themselves: what a span would cost.
class CostMeter {
 public:
  // In nano-USD, rounded down.
  int64_t total() const { return static_cast<int64_t>(integral_ / kNsPerHour); }

  // Adds what [from, until) costs; returns by how much the total rose.
  int64_t Add(const PriceSchedule& prices, int64_t from_unix_ns, int64_t until_unix_ns) {
    const int64_t before = total();
    integral_ += prices.Integral(from_unix_ns, until_unix_ns);
    return total() - before;
  }

 private:
  static constexpr int64_t kNsPerHour = 3'600'000'000'000;

  __int128 integral_ = 0;  // nano-USD × ns / h
};

}  // namespace facet::worker
