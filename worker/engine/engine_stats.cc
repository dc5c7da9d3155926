#include "worker/engine/engine_stats.h"

#include <algorithm>

namespace facet::worker {

void StatsBoard::Begin(int64_t held_since_ns) {
  absl::MutexLock lock(&mutex_);
  begin_ns_ = held_since_ns;
  spent_until_ns_ = held_since_ns;
}

void StatsBoard::Spend(DeviceState state, int64_t now_ns) {
  absl::MutexLock lock(&mutex_);
  stats_.state_ns[static_cast<int>(state)] += now_ns - spent_until_ns_;
  spent_until_ns_ = now_ns;
  stats_.held_ns = now_ns - begin_ns_;
}

void StatsBoard::SpendRest(int64_t now_ns) { SpendStep(DeviceState::kIdle, 0, now_ns); }

DeviceState StatsBoard::RestState() const {
  if (stats_.suspended) return DeviceState::kFault;
  return stats_.draining ? DeviceState::kDrain : DeviceState::kIdle;
}

int64_t StatsBoard::SpendStep(DeviceState state, int64_t device_ns, int64_t now_ns) {
  absl::MutexLock lock(&mutex_);
  const int64_t elapsed_ns = now_ns - spent_until_ns_;
  const int64_t busy_ns = std::min(device_ns, elapsed_ns);
  stats_.state_ns[static_cast<int>(state)] += busy_ns;
  stats_.state_ns[static_cast<int>(RestState())] += elapsed_ns - busy_ns;
  spent_until_ns_ = now_ns;
  stats_.held_ns = now_ns - begin_ns_;
  return busy_ns;
}

EngineStats StatsBoard::Snapshot(const Clock& clock) const {
  absl::MutexLock lock(&mutex_);
  EngineStats stats = stats_;
  stats.held_ns = HeldNow(clock);
  stats.state_ns[static_cast<int>(RestState())] += stats.held_ns - stats_.held_ns;
  stats.load.held_ns_total = stats.held_ns;
  return stats;
}

Load StatsBoard::LoadNow(const Clock& clock) const {
  absl::MutexLock lock(&mutex_);
  Load load = stats_.load;
  load.held_ns_total = HeldNow(clock);
  return load;
}

// While a step runs its time is not booked yet: nobody knows which state it will be.
int64_t StatsBoard::HeldNow(const Clock& clock) const {
  return stats_.step_start_ns == 0 ? clock.NowNs() - begin_ns_ : stats_.held_ns;
}

}  // namespace facet::worker
