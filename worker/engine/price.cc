#include "worker/engine/price.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace facet::worker {
namespace {

constexpr int64_t kNanoUsdPerHourMax = 1'000'000'000'000'000'000;

}  // namespace

PriceSchedule::PriceSchedule(double usd_per_hour) {
  FACET_CHECK(usd_per_hour >= 0 && usd_per_hour <= 1e9) << usd_per_hour;
  prices_.push_back({.nano_usd_per_hour = std::llround(usd_per_hour * 1e9)});
}

StatusOr<PriceSchedule> PriceSchedule::Create(std::vector<DatedPrice> prices) {
  if (prices.empty() || prices[0].from_unix_ns != DatedPrice().from_unix_ns) {
    return InvalidArgument("the first price must hold from the beginning of time");
  }
  for (size_t i = 0; i < prices.size(); ++i) {
    const int64_t price = prices[i].nano_usd_per_hour;
    if (price < 0 || price > kNanoUsdPerHourMax) {
      return InvalidArgument("prices[", i, "] is ", price,
                             " nano-USD per hour; it must be from 0 to ", kNanoUsdPerHourMax);
    }
    if (i > 0 && prices[i].from_unix_ns <= prices[i - 1].from_unix_ns) {
      return InvalidArgument("prices[", i, "] holds from ", prices[i].from_unix_ns,
                             " ns; it must be later than the one before, from ",
                             prices[i - 1].from_unix_ns, " ns");
    }
  }
  PriceSchedule schedule;
  schedule.prices_ = std::move(prices);
  return schedule;
}

int64_t PriceSchedule::NanoUsdPerHourAt(int64_t unix_ns) const {
  const auto next = std::upper_bound(
      prices_.begin(), prices_.end(), unix_ns,
      [](int64_t instant, const DatedPrice& price) { return instant < price.from_unix_ns; });
  return std::prev(next)->nano_usd_per_hour;
}

__int128 PriceSchedule::Integral(int64_t from_unix_ns, int64_t until_unix_ns) const {
  __int128 integral = 0;
  for (size_t i = 0; i < prices_.size(); ++i) {
    const int64_t begin = std::max(from_unix_ns, prices_[i].from_unix_ns);
    const int64_t end = i + 1 < prices_.size()
                            ? std::min(until_unix_ns, prices_[i + 1].from_unix_ns)
                            : until_unix_ns;
    if (begin < end) {
      integral += static_cast<__int128>(end - begin) * prices_[i].nano_usd_per_hour;
    }
  }
  return integral;
}

}  // namespace facet::worker
