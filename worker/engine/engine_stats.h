// What the engine has done so far: totals since start, set at the end of each step, read by the
// heartbeat thread and the metrics collector. Every device nanosecond is in exactly one state.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "worker/engine/step_frame.h"

namespace facet::worker {

// kFault: from the loss of a rank until the group is formed again. A device that breaks ends the
// process.
enum class DeviceState { kLoading, kIdle, kPrefill, kDecode, kMixed, kDrain, kFault };

inline constexpr int kNumDeviceStates = 7;

constexpr const char* NameOf(DeviceState state) {
  constexpr const char* kNames[] = {"loading", "idle",  "prefill", "decode",
                                    "mixed",   "drain", "fault"};
  return kNames[static_cast<int>(state)];
}

struct TenantUse {
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;
  int64_t prefill_nano_usd = 0;
  int64_t decode_nano_usd = 0;
  uint64_t prompt_tokens = 0;
  uint64_t output_tokens = 0;
};

struct EngineStats {
  uint64_t steps = 0;
  int64_t step_start_ns = 0;  // Of the oldest step in flight; 0 if idle.
  Load load;
  std::map<uint64_t, Credits> credits;  // By session.
  bool draining = false;
  bool suspended = false;
  int64_t held_ns = 0;  // Since start; Σ state_ns.
  std::array<int64_t, kNumDeviceStates> state_ns{};
  std::map<std::string, TenantUse> tenants;
  std::map<std::string, int64_t> wasted_ns;  // By reason.
  std::map<std::string, int64_t> finished;   // Sequences by reason.
  int64_t preemptions = 0;
  std::vector<int64_t> expert_choices;  // By expert, as of the last time that the gate opened.
};

// Shared by the engine thread, which writes at the end of a step, and readers.
class StatsBoard {
 public:
  // The device is held, and loading, from held_since_ns on.
  void Begin(int64_t held_since_ns);

  // The device was in this state since the last call, until now_ns.
  void Spend(DeviceState state, int64_t now_ns);

  // No step ran since the last call.
  void SpendRest(int64_t now_ns);

  // A step has just ended. Of the time since the last call, device_ns (at most all of it) was spent
  // in this state, the rest idle. Returns what was spent.
  int64_t SpendStep(DeviceState state, int64_t device_ns, int64_t now_ns);

  // Changes the totals in one go.
  template <typename Change>
  void Update(const Change& change) {
    absl::MutexLock lock(&mutex_);
    change(stats_);
  }

  // The totals as of now: time since the last Spend counts as idle, or as the state of the step
  // that runs.
  EngineStats Snapshot(const Clock& clock) const;

  // The snapshot's load alone: no maps are copied.
  Load LoadNow(const Clock& clock) const;

 private:
  int64_t HeldNow(const Clock& clock) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of time in which no step runs.
  DeviceState RestState() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  int64_t begin_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t spent_until_ns_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace facet::worker
