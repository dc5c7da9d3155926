// The engine on its own thread: requests, cancels and statistics from several threads at once. Runs
// under ThreadSanitizer in CI.
#include <gtest/gtest.h>

#include <thread>

#include "tests/support/counting_executor.h"
#include "worker/engine/engine.h"

namespace facet::test {
namespace {

class CountingSink final : public worker::EngineSink {
 public:
  void OnStepFrame(worker::StepFrame frame) override {
    absl::MutexLock lock(&mutex_);
    for (const worker::TokenDelta& delta : frame.deltas) {
      if (delta.finish != worker::FinishReason::kNone) ++num_ended_;
    }
  }

  void OnRefusal(worker::Refusal) override {
    absl::MutexLock lock(&mutex_);
    ++num_ended_;
  }

  void OnSettled(worker::SettledAccount) override {}

  void OnLost(const Status& cause) override { FAIL() << MessageOf(cause); }

  void AwaitEnded(int count) {
    absl::MutexLock lock(&mutex_);
    const auto ended = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return num_ended_ >= count; };
    ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&ended), absl::Seconds(60)));
  }

 private:
  absl::Mutex mutex_;
  int num_ended_ ABSL_GUARDED_BY(mutex_) = 0;
};

TEST(EngineThreadTest, EveryRequestEndsWhoeverPostsIt) {
  constexpr int kThreads = 4;
  constexpr int kRequestsEach = 50;
  CountingExecutor executor({});
  CountingSink sink;
  worker::Engine engine({.scheduler = {.running_max = 8,
                                       .waiting_max = 1000,
                                       .step_tokens_max = 64,
                                       .chunk_tokens_max = 64,
                                       .context_tokens_max = 500}},
                        executor, sink, Clock::Real());
  engine.Start();
  std::vector<std::thread> clients;
  for (int session = 1; session <= kThreads; ++session) {
    clients.emplace_back([&engine, session] {
      engine.OpenSession(session);
      for (int i = 0; i < kRequestsEach; ++i) {
        worker::SequenceRequest request{.request_id = StrCat(i),
                                        .session_id = static_cast<uint64_t>(session),
                                        .prompt_ids = std::vector<int32_t>(20 + i, 3),
                                        .new_tokens_max = 20};
        EXPECT_TRUE(engine.AddRequest(std::move(request)).ok());
        if (i % 5 == 0) {
          engine.CancelRequest(session, StrCat(i), 1, worker::FinishReason::kCancelled, true);
        }
        EXPECT_GE(engine.Stats().held.ns, 0);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  sink.AwaitEnded(kThreads * kRequestsEach);
  engine.Stop();
  EXPECT_EQ(engine.Stats().load.kv_bytes_used, 0);
}

}  // namespace
}  // namespace facet::test
