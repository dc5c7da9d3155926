// What the engine has done so far: totals since start, set at the end of each step, read by the
// heartbeat thread and the metrics collector. Every device nanosecond is in exactly one state.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/bounded_labels.h"
#include "base/clock.h"
#include "worker/engine/charge.h"
#include "worker/engine/price.h"
#include "worker/engine/step_frame.h"
#include "worker/executor/executor.h"

namespace facet::worker {

// kFault: from the loss of a rank until the group is formed again. A device that breaks ends the
// process. kAssist: in steps of the group to which the rank brings no token of its own.
enum class DeviceState { kLoading, kIdle, kPrefill, kDecode, kMixed, kAssist, kDrain, kFault };

inline constexpr int kNumDeviceStates = 8;

constexpr const char* NameOf(DeviceState state) {
  constexpr const char* kNames[] = {"loading", "idle",   "prefill", "decode",
                                    "mixed",   "assist", "drain",   "fault"};
  return kNames[static_cast<int>(state)];
}

// Whether requests pay for it.
constexpr bool IsBusy(DeviceState state) {
  return state == DeviceState::kPrefill || state == DeviceState::kDecode ||
         state == DeviceState::kMixed || state == DeviceState::kAssist;
}

struct TenantUse {
  Spent prefill;
  Spent decode;
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
  Spent held;                                  // Since start; Σ states.
  std::array<Spent, kNumDeviceStates> states;  // By DeviceState.
  // What requests here took from devices of other ranks, and what this device gave to theirs:
  // Σ tenants = Σ busy states + borrowed - lent.
  Spent borrowed;
  Spent lent;
  int64_t nano_usd_per_hour = 0;  // The price now.
  // Of the oldest step in flight; 0 if the step model does not predict.
  double step_predicted_ns = 0;
  double step_ms_mean = 0;  // Moving, of the steps before.
  // Moving mean of |predicted - taken| / taken; 0 if the step model does not predict.
  double step_model_error_ratio = 0;
  std::map<std::string, TenantUse> tenants;  // As UseOf names them.
  uint64_t tenants_as_other = 0;
  std::map<std::string, int64_t> wasted_ns;  // By reason.
  std::map<std::string, int64_t> finished;   // Sequences by reason.
  int64_t preemptions = 0;
  PhaseWork work;                       // Of all steps.
  std::vector<int64_t> expert_choices;  // By expert, as of the last time that the gate opened.

  // The tenant's, or that of all others if there are BoundedLabels::kValuesMax already: metrics
  // stay small, and usage records know every name.
  TenantUse& UseOf(const std::string& tenant);
};

// What sequences pay for a step beyond what the device spent is borrowed; the other way round,
// lent.
void BookBetweenRanks(const Spent& spent, const Spent& paid, EngineStats& stats);

// Shared by the engine thread, which writes at the end of a step, and readers. The sums that
// EngineStats names hold in every snapshot: a step's time, its price and who pays for them are
// booked in one go.
class StatsBoard final : public AssistObserver {
 public:
  // clock must outlive the board. The device is held from now on.
  StatsBoard(const PriceSchedule& prices, const Clock& clock);

  // The device is held since then, not only since the board was made. Before anything else.
  void SetHeldSince(int64_t held_since_ns);

  // What is not booked yet, a step in flight that is, and what comes costs this; the rest does not
  // change. Instants are those of the clock as it is now: a wall clock that jumps later does not
  // move them.
  void SetPrices(PriceSchedule prices);

  // The device was loading until now.
  void EndLoading();

  // A step was submitted while none was in flight: the device rested until now. predicted_ns: 0 if
  // the step model does not predict.
  void StepBegins(double predicted_ns = 0);

  // The oldest step in flight has just ended; it took device_ns, at most all the time that is not
  // booked. change(stats, spent) books what it took, before anybody sees the totals.
  template <typename Change>
  void StepEnds(DeviceState state,
                int64_t device_ns,
                bool another_in_flight,
                const Change& change) {
    absl::MutexLock lock(&mutex_);
    const Spent spent = BookStep(state, device_ns, another_in_flight);
    change(stats_, spent);
  }

  // A step of other ranks, for which they pay. It may begin before the engine hears of the end of
  // its own, and may delay it: while both are open each end books device_ns and leaves the rest of
  // the time to the other.
  void OnAssistBegins() override;
  void OnAssistEnds(int64_t device_ns) override;

  // It came to nothing; its time is part of the fault.
  void StepFails(bool another_in_flight);

  // Other states of the time in which no step runs.
  void SetDraining();
  void SetSuspended(bool suspended);

  // Changes totals in one go.
  template <typename Change>
  void Update(const Change& change) {
    absl::MutexLock lock(&mutex_);
    change(stats_);
  }

  // The totals as of now; while a step runs, as of its beginning: nobody knows yet what its time
  // will be.
  EngineStats Snapshot() const;

  // The snapshot's load alone: no maps are copied.
  Load LoadNow() const;

 private:
  // Books the time up to until_ns.
  Spent Book(DeviceState state, int64_t until_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Spent BookStep(DeviceState state, int64_t device_ns, bool another_in_flight)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Books the time until now, unless a step runs.
  void BookRest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of time in which no step runs.
  DeviceState RestState() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  bool InStep() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stats_.step_start_ns != 0 || assisting_;
  }

  // Books device_ns; the time that is not booked was its alone, or another step's as well.
  Spent BookBusy(DeviceState state, int64_t device_ns, bool alone)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The time from the last booking to now, as a meter that is a copy sees it.
  Spent Unbooked(int64_t until_ns, CostMeter& meter) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Load LoadOf(const Spent& unbooked) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock& clock_;
  mutable absl::Mutex mutex_;
  EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  PriceSchedule prices_ ABSL_GUARDED_BY(mutex_);
  int64_t unix_offset_ns_ ABSL_GUARDED_BY(mutex_) = 0;  // Unix time less the clock's.
  CostMeter meter_ ABSL_GUARDED_BY(mutex_);
  bool loading_ ABSL_GUARDED_BY(mutex_) = true;
  bool assisting_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t booked_until_ns_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace facet::worker
