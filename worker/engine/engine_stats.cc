#include "worker/engine/engine_stats.h"

#include <algorithm>
#include <utility>

namespace facet::worker {

TenantUse& EngineStats::UseOf(const std::string& tenant) {
  if (const auto found = tenants.find(tenant); found != tenants.end()) return found->second;
  if (tenants.size() + 1 < BoundedLabels::kValuesMax) return tenants[tenant];
  ++tenants_as_other;
  return tenants[BoundedLabels::kOther];
}

void BookBetweenRanks(const Spent& spent, const Spent& paid, EngineStats& stats) {
  stats.borrowed += {.ns = std::max<int64_t>(0, paid.ns - spent.ns),
                     .nano_usd = std::max<int64_t>(0, paid.nano_usd - spent.nano_usd)};
  stats.lent += {.ns = std::max<int64_t>(0, spent.ns - paid.ns),
                 .nano_usd = std::max<int64_t>(0, spent.nano_usd - paid.nano_usd)};
}

StatsBoard::StatsBoard(const PriceSchedule& prices, const Clock& clock)
    : clock_(clock),
      prices_(prices),
      unix_offset_ns_(clock.UnixNs() - clock.NowNs()),
      booked_until_ns_(clock.NowNs()) {}

void StatsBoard::SetHeldSince(int64_t held_since_ns) {
  absl::MutexLock lock(&mutex_);
  FACET_CHECK_EQ(stats_.held.ns, 0);
  booked_until_ns_ = held_since_ns;
}

void StatsBoard::SetPrices(PriceSchedule prices) {
  absl::MutexLock lock(&mutex_);
  BookRest();
  prices_ = std::move(prices);
  unix_offset_ns_ = clock_.UnixNs() - clock_.NowNs();
}

void StatsBoard::EndLoading() {
  absl::MutexLock lock(&mutex_);
  BookRest();
  loading_ = false;
}

void StatsBoard::StepBegins(double predicted_ns) {
  absl::MutexLock lock(&mutex_);
  BookRest();
  loading_ = false;
  stats_.step_start_ns = clock_.NowNs();
  stats_.step_predicted_ns = predicted_ns;
}

void StatsBoard::OnAssistBegins() {
  absl::MutexLock lock(&mutex_);
  BookRest();
  assisting_ = true;
}

void StatsBoard::OnAssistEnds(int64_t device_ns) {
  absl::MutexLock lock(&mutex_);
  assisting_ = false;
  if (device_ns > 0) {
    stats_.lent += BookBusy(DeviceState::kAssist, device_ns, /*alone=*/!InStep());
  } else {
    BookRest();
  }
}

void StatsBoard::StepFails(bool another_in_flight) {
  absl::MutexLock lock(&mutex_);
  stats_.step_start_ns = another_in_flight ? clock_.NowNs() : 0;
}

void StatsBoard::SetDraining() {
  absl::MutexLock lock(&mutex_);
  BookRest();
  stats_.draining = true;
}

void StatsBoard::SetSuspended(bool suspended) {
  absl::MutexLock lock(&mutex_);
  BookRest();
  stats_.suspended = suspended;
}

EngineStats StatsBoard::Snapshot() const {
  absl::MutexLock lock(&mutex_);
  const int64_t now_ns = clock_.NowNs();
  CostMeter meter = meter_;
  const Spent rest = InStep() ? Spent() : Unbooked(now_ns, meter);
  EngineStats stats = stats_;
  stats.states[static_cast<int>(RestState())] += rest;
  stats.held += rest;
  stats.nano_usd_per_hour = prices_.NanoUsdPerHourAt(now_ns + unix_offset_ns_);
  stats.load = LoadOf(rest);
  return stats;
}

Load StatsBoard::LoadNow() const {
  absl::MutexLock lock(&mutex_);
  CostMeter meter = meter_;
  return LoadOf(InStep() ? Spent() : Unbooked(clock_.NowNs(), meter));
}

Load StatsBoard::LoadOf(const Spent& unbooked) const {
  Load load = stats_.load;
  load.busy_ns_total = 0;
  for (int i = 0; i < kNumDeviceStates; ++i) {
    if (IsBusy(static_cast<DeviceState>(i))) load.busy_ns_total += stats_.states[i].ns;
  }
  load.held_ns_total = stats_.held.ns + unbooked.ns;
  return load;
}

DeviceState StatsBoard::RestState() const {
  if (loading_) return DeviceState::kLoading;
  if (stats_.suspended) return DeviceState::kFault;
  return stats_.draining ? DeviceState::kDrain : DeviceState::kIdle;
}

void StatsBoard::BookRest() {
  if (!InStep()) Book(RestState(), clock_.NowNs());
}

Spent StatsBoard::BookStep(DeviceState state, int64_t device_ns, bool another_in_flight) {
  const Spent spent = BookBusy(state, device_ns, /*alone=*/!assisting_);
  stats_.step_start_ns = another_in_flight ? clock_.NowNs() : 0;
  return spent;
}

Spent StatsBoard::BookBusy(DeviceState state, int64_t device_ns, bool alone) {
  const int64_t now_ns = clock_.NowNs();
  if (!alone) return Book(state, std::min(now_ns, booked_until_ns_ + device_ns));
  Book(RestState(), std::max(booked_until_ns_, now_ns - device_ns));
  return Book(state, now_ns);
}

Spent StatsBoard::Book(DeviceState state, int64_t until_ns) {
  const Spent spent = Unbooked(until_ns, meter_);
  stats_.states[static_cast<int>(state)] += spent;
  stats_.held += spent;
  booked_until_ns_ = until_ns;
  return spent;
}

Spent StatsBoard::Unbooked(int64_t until_ns, CostMeter& meter) const {
  return {.ns = until_ns - booked_until_ns_,
          .nano_usd =
              meter.Add(prices_, booked_until_ns_ + unix_offset_ns_, until_ns + unix_offset_ns_)};
}

}  // namespace facet::worker
