// A function to call when something changes, which can be taken back.
#pragma once

#include <functional>
#include <utility>

#include "absl/synchronization/mutex.h"

namespace facet::worker {

// Any thread. After Set returns the old function is not running and will not be called.
class Listener {
 public:
  void Set(std::function<void()> listener) {
    absl::MutexLock lock(&mutex_);
    listener_ = std::move(listener);
  }

  void Call() {
    absl::MutexLock lock(&mutex_);
    if (listener_) listener_();
  }

 private:
  absl::Mutex mutex_;
  std::function<void()> listener_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace facet::worker
