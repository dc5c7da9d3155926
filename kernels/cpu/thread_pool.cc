#include "kernels/cpu/thread_pool.h"

#include "base/check.h"

namespace facet::kernels {
namespace {

// About 20 µs: the gap between two ops of a layer is shorter, one between two steps mostly longer.
constexpr int kSpins = 4000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  FACET_CHECK_GE(num_threads, 1);
  for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { ThreadMain(i); });
}

ThreadPool::~ThreadPool() {
  ending_ = true;
  loop_.fetch_add(1, std::memory_order_release);
  loop_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Run(int64_t num_items, const void* context, Call call) {
  if (threads_.empty() || num_items == 1) {
    for (int64_t item = 0; item < num_items; ++item) call(context, item, 0);
    return;
  }
  context_ = context;
  call_ = call;
  num_items_ = num_items;
  next_item_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int32_t>(threads_.size()), std::memory_order_relaxed);
  loop_.fetch_add(1, std::memory_order_release);
  loop_.notify_all();
  Work(0);
  int spins = 0;
  for (int32_t left = busy_.load(std::memory_order_acquire); left != 0;
       left = busy_.load(std::memory_order_acquire)) {
    if (++spins < kSpins) {
      Pause();
    } else {
      busy_.wait(left, std::memory_order_acquire);
    }
  }
}

void ThreadPool::ThreadMain(int thread) {
  uint32_t seen = 0;
  while (true) {
    int spins = 0;
    while (loop_.load(std::memory_order_acquire) == seen) {
      if (++spins < kSpins) {
        Pause();
      } else {
        loop_.wait(seen, std::memory_order_acquire);
      }
    }
    ++seen;
    if (ending_.load()) return;
    Work(thread);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

void ThreadPool::Work(int thread) {
  while (true) {
    const int64_t item = next_item_.fetch_add(1, std::memory_order_relaxed);
    if (item >= num_items_) return;
    call_(context_, item, thread);
  }
}

}  // namespace facet::kernels
