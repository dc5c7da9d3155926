// SIGTERM and SIGINT as a call on a thread of its own.
#pragma once

#include <csignal>
#include <cstdlib>
#include <functional>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "base/log.h"

namespace facet::worker {

// Blocks the signals that end the process in every thread and waits for one of them in its own.
class SignalThread {
 public:
  explicit SignalThread(std::function<void(int)> on_signal) {
    thread_ = std::thread([on_signal = std::move(on_signal)] {
      const sigset_t set = Signals();
      int signal = 0;
      sigwait(&set, &signal);
      on_signal(signal);
    });
    thread_.detach();  // It ends with the process.
  }

  // Before any thread is made.
  static void Block() {
    const sigset_t set = Signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
  }

 private:
  static sigset_t Signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    return set;
  }

  std::thread thread_;
};

// What a signal does: while the weights load it ends the process at once.
class SignalAction {
 public:
  void Set(std::function<void()> action) {
    absl::MutexLock lock(&mutex_);
    action_ = std::move(action);
  }

  void Run() {
    std::function<void()> action;
    {
      absl::MutexLock lock(&mutex_);
      action = action_;
    }
    if (action) {
      action();
    } else {
      Log(kInfo, "worker ends before it was ready");
      std::_Exit(0);
    }
  }

 private:
  absl::Mutex mutex_;
  std::function<void()> action_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace facet::worker
