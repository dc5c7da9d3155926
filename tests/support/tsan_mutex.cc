// Shows absl::Mutex to ThreadSanitizer. Debian's abseil is not instrumented, so without this all
// that a Mutex guards looks unguarded. Linked into the tests of the tsan preset alone.
//
// Each function stands in front of the library's own of the same name: it calls it and says what
// the call orders. Unlock and Await run other threads' conditions with the lock held, which a
// sanitizer cannot know: their reads are left out.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

namespace {

// The library's function behind ours.
template <typename Function>
Function* Behind(const char* mangled_name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, mangled_name));
}

class IgnoredReads {
 public:
  IgnoredReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }

  ~IgnoredReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static auto* const kLock = Behind<void(Mutex*)>("_ZN4absl7debian35Mutex4LockEv");
  kLock(this);
  __tsan_acquire(this);
}

bool Mutex::TryLock() {
  static auto* const kTryLock = Behind<bool(Mutex*)>("_ZN4absl7debian35Mutex7TryLockEv");
  const bool locked = kTryLock(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::Unlock() {
  static auto* const kUnlock = Behind<void(Mutex*)>("_ZN4absl7debian35Mutex6UnlockEv");
  __tsan_release(this);
  const IgnoredReads ignored;
  kUnlock(this);
}

void Mutex::Await(const Condition& condition) {
  static auto* const kAwait =
      Behind<void(Mutex*, const Condition&)>("_ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE");
  __tsan_release(this);
  {
    const IgnoredReads ignored;
    kAwait(this, condition);
  }
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  static auto* const kAwait = Behind<bool(Mutex*, const Condition&, Duration)>(
      "_ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  __tsan_release(this);
  bool met = false;
  {
    const IgnoredReads ignored;
    met = kAwait(this, condition, timeout);
  }
  __tsan_acquire(this);
  return met;
}

// Waits with the mutex released.
void CondVar::Wait(Mutex* mutex) {
  static auto* const kWait =
      Behind<void(CondVar*, Mutex*)>("_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mutex);
  {
    const IgnoredReads ignored;
    kWait(this, mutex);
  }
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static auto* const kWait = Behind<bool(CondVar*, Mutex*, Duration)>(
      "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mutex);
  bool late = false;
  {
    const IgnoredReads ignored;
    late = kWait(this, mutex, timeout);
  }
  __tsan_acquire(mutex);
  return late;
}

ABSL_NAMESPACE_END
}  // namespace absl
