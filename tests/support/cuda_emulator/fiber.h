// One stack of execution and the switch between two of them. x86-64, System V calling convention;
// sanitizers are told of every switch.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define FACET_EMULATOR_ASAN 1
#else
#define FACET_EMULATOR_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__) || defined(FACET_EMULATOR_TSAN_BUILD)
#include <sanitizer/tsan_interface.h>
#define FACET_EMULATOR_TSAN 1
#else
#define FACET_EMULATOR_TSAN 0
#endif

// Saves the callee-saved registers on the current stack, stores its pointer and goes on from the
// other. Fifteen instructions; ucontext would make two system calls.
extern "C" void facet_emulator_switch(void** save, void* load);

namespace facet::cuda_emulator {

class Fiber {
 public:
#if FACET_EMULATOR_ASAN || FACET_EMULATOR_TSAN
  static constexpr size_t kStackBytes = size_t{256} * 1024;
#else
  static constexpr size_t kStackBytes = size_t{64} * 1024;
#endif

  // The thread that is running already.
  Fiber() = default;

  // Runs entry from its start at the first switch; entry must never return.
  explicit Fiber(void (*entry)()) {
    const size_t guard = 4096;
    memory_ = mmap(nullptr, kStackBytes + guard, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(memory_, guard, PROT_NONE);
    stack_ = static_cast<char*>(memory_) + guard;
    stack_bytes_ = kStackBytes;
#if FACET_EMULATOR_TSAN
    tsan_ = __tsan_create_fiber(0);
#endif
    auto* top = reinterpret_cast<uintptr_t*>(stack_ + stack_bytes_);
    // The switch pops six registers and returns to entry, which then sees a stack as after a call.
    *--top = 0;
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; ++i) *--top = 0;
    stack_pointer_ = top;
  }

  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  ~Fiber() {
    if (memory_ == nullptr) return;
#if FACET_EMULATOR_TSAN
    __tsan_destroy_fiber(tsan_);
#endif
    munmap(memory_, kStackBytes + 4096);
  }

  // The running fiber calls it on itself.
  void SwitchTo(Fiber& to) {
#if FACET_EMULATOR_ASAN
    if (to.stack_ == nullptr) {
      __sanitizer_start_switch_fiber(&fake_stack_, host_stack(), host_stack_bytes());
    } else {
      __sanitizer_start_switch_fiber(&fake_stack_, to.stack_, to.stack_bytes_);
    }
#endif
#if FACET_EMULATOR_TSAN
    if (tsan_ == nullptr) tsan_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to.tsan_, 1);
#endif
    facet_emulator_switch(&stack_pointer_, to.stack_pointer_);
    AfterSwitch();
  }

  // First thing that a fresh fiber calls.
  void Entered() {
#if FACET_EMULATOR_ASAN
    const void* from = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &from, &bytes);
    if (host_stack() == nullptr) {
      host_stack() = from;
      host_stack_bytes() = bytes;
    }
#endif
  }

 private:
  void AfterSwitch() {
#if FACET_EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

#if FACET_EMULATOR_ASAN
  // The stack of the operating system's thread, learnt when the first fiber is entered from it.
  static const void*& host_stack() {
    static thread_local const void* stack = nullptr;
    return stack;
  }

  static size_t& host_stack_bytes() {
    static thread_local size_t bytes = 0;
    return bytes;
  }

  void* fake_stack_ = nullptr;
#endif
#if FACET_EMULATOR_TSAN
  void* tsan_ = nullptr;
#endif
  void* memory_ = nullptr;
  char* stack_ = nullptr;
  size_t stack_bytes_ = 0;
  void* stack_pointer_ = nullptr;
};

}  // namespace facet::cuda_emulator
