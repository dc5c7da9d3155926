// A thread that does what has gathered, soon after it is woken but not more often than each gap:
// for work like a sync to disk that costs the same for one item and for a thousand.
#pragma once

#include <functional>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace facet {

class BatchThread {
 public:
  // turn is called on the thread until Stop; it returns whether to come again without a Wake, after
  // the gap.
  BatchThread(absl::Duration gap, std::function<bool()> turn)
      : gap_(gap), turn_(std::move(turn)), thread_([this] { Run(); }) {}

  ~BatchThread() { Stop(); }

  // Any thread.
  void Wake() {
    absl::MutexLock lock(&mutex_);
    woken_ = true;
  }

  // Returns after a last turn.
  void Stop() {
    {
      absl::MutexLock lock(&mutex_);
      ends_ = true;
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Run() {
    bool again = true;  // The first turn needs no reason.
    for (bool ends = false; !ends;) {
      {
        const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return woken_ || ends_; };
        absl::MutexLock lock(&mutex_);
        if (!again) mutex_.Await(absl::Condition(&ready));
        mutex_.AwaitWithTimeout(absl::Condition(&ends_), gap_);
        woken_ = false;
        ends = ends_;
      }
      again = turn_();
    }
  }

  const absl::Duration gap_;
  const std::function<bool()> turn_;
  absl::Mutex mutex_;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // Last: it uses the others.
};

}  // namespace facet
