// Threads that run one loop at a time together with the caller.
//
// A loop's items are claimed one by one, so that a slow core takes fewer; which thread computes an
// item never changes its value. Between loops the threads spin for a moment, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace facet::kernels {

// The padding keeps the counters that threads fight over on lines of their own.
// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding)
class ThreadPool {
 public:
  // num_threads ≥ 1 counts the caller.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls body(item, thread) for every item in [0, num_items), thread in [0, num_threads). Returns
  // when all are done. One loop at a time.
  template <typename Body>
  void For(int64_t num_items, const Body& body) {
    Run(num_items, &body, [](const void* context, int64_t item, int thread) {
      (*static_cast<const Body*>(context))(item, thread);
    });
  }

 private:
  using Call = void (*)(const void* context, int64_t item, int thread);

  void Run(int64_t num_items, const void* context, Call call);
  void ThreadMain(int thread);
  void Work(int thread);

  std::vector<std::thread> threads_;
  const void* context_ = nullptr;
  Call call_ = nullptr;
  int64_t num_items_ = 0;
  alignas(64) std::atomic<int64_t> next_item_{0};
  alignas(64) std::atomic<uint32_t> loop_{0};  // Grows by one for each loop.
  alignas(64) std::atomic<int32_t> busy_{0};   // Pool threads still inside the present loop.
  std::atomic<bool> ending_{false};
};

}  // namespace facet::kernels
