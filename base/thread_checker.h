// Says which thread owns an object: the first that calls Check, or the one that called Rebind last.
#pragma once

#include <atomic>
#include <thread>

#include "base/check.h"

namespace facet {

class ThreadChecker {
 public:
  void Check() const {
    std::thread::id none;
    const std::thread::id self = std::this_thread::get_id();
    if (owner_.compare_exchange_strong(none, self)) return;
    FACET_CHECK(owner_.load() == self) << "called from a thread that does not own this object";
  }

  // The calling thread owns the object from now on.
  void Rebind() { owner_ = std::this_thread::get_id(); }

 private:
  mutable std::atomic<std::thread::id> owner_{};
};

}  // namespace facet
