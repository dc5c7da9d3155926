// Whole ranks in one process: engines, executors and the groups they form, over the local
// communicator. What a request gets is what one process with all experts gives it.
#include "worker/executor/rank_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "kernels/cpu/cpu_backend.h"
#include "worker/comm/local_communicator.h"
#include "worker/engine/engine.h"

namespace facet::test {
namespace {

using testing::HasSubstr;
using worker::Engine;
using worker::LocalRendezvous;
using worker::ModelExecutor;
using worker::RankGroup;

constexpr uint64_t kSession = 1;
constexpr absl::Duration kWait = absl::Seconds(60);

// Collects what an engine publishes.
class Sink final : public worker::EngineSink {
 public:
  void OnStepFrame(worker::StepFrame frame) override {
    absl::MutexLock lock(&mutex_);
    for (worker::TokenDelta& delta : frame.deltas) {
      std::vector<int32_t>& tokens = tokens_[delta.request_id];
      tokens.insert(tokens.end(), delta.token_ids.begin(), delta.token_ids.end());
      if (delta.finish != worker::FinishReason::kNone) ++num_ended_;
    }
  }

  void OnRefusal(worker::Refusal refusal) override { ADD_FAILURE() << refusal.status; }

  void OnLost(const Status& cause) override {
    absl::MutexLock lock(&mutex_);
    lost_.push_back(MessageOf(cause));
  }

  void AwaitEnded(int count) {
    absl::MutexLock lock(&mutex_);
    const auto ended = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return num_ended_ >= count; };
    ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&ended), kWait));
  }

  void AwaitTokens(const std::string& id, size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto came = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      const auto it = tokens_.find(id);
      return it != tokens_.end() && it->second.size() >= count;
    };
    ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&came), kWait));
  }

  void AwaitLost(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto lost = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return lost_.size() >= count; };
    ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&lost), kWait));
  }

  std::vector<std::string> lost() {
    absl::MutexLock lock(&mutex_);
    return lost_;
  }

  std::map<std::string, std::vector<int32_t>> tokens() {
    absl::MutexLock lock(&mutex_);
    return tokens_;
  }

 private:
  absl::Mutex mutex_;
  std::map<std::string, std::vector<int32_t>> tokens_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> lost_ ABSL_GUARDED_BY(mutex_);
  int num_ended_ ABSL_GUARDED_BY(mutex_) = 0;
};

// One worker without its wire: a rank, or (num_ranks 1) a process with all experts.
class Rank {
 public:
  Rank(int32_t rank, int32_t num_ranks, int64_t kv_bytes = 8 << 20) : rank_(rank) {
    StatusOr<std::unique_ptr<ModelExecutor>> executor =
        ModelExecutor::Create({.model_directory = "tests/golden/models/moe",
                               .kv_bytes = kv_bytes,
                               .running_max = 4,
                               .step_tokens_max = 32,
                               .experts = {.rank = rank, .num_ranks = num_ranks}},
                              std::make_unique<kernels::CpuBackend>(kernels::CpuTier::kScalar, 1));
    FACET_CHECK(executor.ok()) << executor.status().ToString();
    executor_ = *std::move(executor);
    engine_ =
        std::make_unique<Engine>(worker::EngineOptions{.scheduler = {.running_max = 4,
                                                                     .waiting_max = 100,
                                                                     .step_tokens_max = 32,
                                                                     .chunk_tokens_max = 32,
                                                                     .context_tokens_max = 200}},
                                 *executor_, sink_, Clock::Real());
    if (num_ranks > 1) engine_->Suspend(Unavailable("not formed"));
    engine_->Start();
    engine_->OpenSession(kSession);
  }

  // Comes to the group.
  void Join(LocalRendezvous& rendezvous) {
    group_ = std::make_unique<RankGroup>(
        [this, &rendezvous](int64_t epoch_min, absl::Duration timeout) {
          return rendezvous.Form(rank_, epoch_min, timeout);
        },
        *executor_,
        RankGroup::Events{.on_formed =
                              [this](int64_t epoch) {
                                engine_->Resume();
                                engine_->OpenSession(kSession);
                                absl::MutexLock lock(&mutex_);
                                epoch_ = epoch;
                              },
                          .on_not_formed = [this](const Status& cause) { engine_->Suspend(cause); },
                          .on_peer_leaves =
                              [this] {
                                absl::MutexLock lock(&mutex_);
                                peer_leaves_ = true;
                              }},
        /*epoch_min=*/1);
  }

  void AwaitEpoch(int64_t epoch_min) {
    absl::MutexLock lock(&mutex_);
    const auto formed = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return epoch_ >= epoch_min; };
    ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&formed), kWait));
  }

  void AwaitPeerLeaves() {
    absl::MutexLock lock(&mutex_);
    ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&peer_leaves_), kWait));
  }

  // As a process that dies: nobody is asked.
  void Die() { group_.reset(); }

  RankGroup& group() { return *group_; }

  Engine& engine() { return *engine_; }

  Sink& sink() { return sink_; }

  void Submit(int32_t number, int32_t new_tokens) {
    std::mt19937 random(static_cast<uint32_t>(number));
    worker::SequenceRequest request;
    request.request_id = StrCat("request-", number);
    request.session_id = kSession;
    request.prompt_ids.resize(5 + random() % 60);
    for (int32_t& id : request.prompt_ids) id = static_cast<int32_t>(random() % 100);
    request.sampling.temperature = number % 2 == 0 ? 0.0F : 1.0F;
    request.sampling.seed = static_cast<uint64_t>(number);
    request.new_tokens_max = new_tokens;
    ASSERT_TRUE(engine_->AddRequest(std::move(request)).ok());
  }

 private:
  const int32_t rank_;
  Sink sink_;
  std::unique_ptr<ModelExecutor> executor_;
  std::unique_ptr<Engine> engine_;
  absl::Mutex mutex_;
  int64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  bool peer_leaves_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<RankGroup> group_;
};

class RankGroupTest : public ::testing::Test {
 protected:
  void Start(int32_t num_ranks, int64_t kv_bytes = 8 << 20) {
    rendezvous_.emplace(num_ranks);
    for (int32_t rank = 0; rank < num_ranks; ++rank) {
      ranks_.push_back(std::make_unique<Rank>(rank, num_ranks, kv_bytes));
    }
    for (auto& rank : ranks_) rank->Join(*rendezvous_);
    for (auto& rank : ranks_) rank->AwaitEpoch(1);
  }

  // What one process gives to requests [0, count).
  static std::map<std::string, std::vector<int32_t>> Alone(int count, int32_t new_tokens) {
    Rank alone(0, 1);
    for (int i = 0; i < count; ++i) alone.Submit(i, new_tokens);
    alone.sink().AwaitEnded(count);
    return alone.sink().tokens();
  }

  // All ranks want to end, each from a thread of its own as a process would.
  void LeaveAll() {
    std::vector<std::thread> threads;
    for (auto& rank : ranks_) {
      threads.emplace_back([&rank] { rank->group().Leave(kWait); });
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::optional<LocalRendezvous> rendezvous_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

TEST_F(RankGroupTest, RequestsOfOneRankAloneAreAnswered) {
  Start(4);
  for (int i = 0; i < 6; ++i) ranks_[2]->Submit(i, 20);
  ranks_[2]->sink().AwaitEnded(6);
  EXPECT_EQ(ranks_[2]->sink().tokens(), Alone(6, 20));
  LeaveAll();
  for (auto& rank : ranks_) EXPECT_THAT(rank->sink().lost(), ::testing::SizeIs(1)) << "the first";
}

TEST_F(RankGroupTest, RanksThatComeAndWorkAtDifferentTimesAnswerAlike) {
  rendezvous_.emplace(2);
  for (int32_t rank = 0; rank < 2; ++rank) ranks_.push_back(std::make_unique<Rank>(rank, 2));
  ranks_[1]->Join(*rendezvous_);
  absl::SleepFor(absl::Milliseconds(300));
  ranks_[0]->Join(*rendezvous_);
  for (auto& rank : ranks_) rank->AwaitEpoch(1);
  for (int i = 0; i < 8; ++i) {
    ranks_[static_cast<size_t>(i % 2)]->Submit(i, 20);
    absl::SleepFor(absl::Milliseconds(i % 3 * 10));
  }
  std::map<std::string, std::vector<int32_t>> tokens;
  for (auto& rank : ranks_) {
    rank->sink().AwaitEnded(4);
    tokens.merge(rank->sink().tokens());
  }
  EXPECT_EQ(tokens, Alone(8, 20));
  LeaveAll();
}

TEST_F(RankGroupTest, ARankThatPreemptsKeepsItsTokens) {
  const std::map<std::string, std::vector<int32_t>> wanted = Alone(6, 100);
  // Room for some sequences, but not at their full length.
  Start(2, /*kv_bytes=*/160 << 10);
  for (int i = 0; i < 6; ++i) ranks_[0]->Submit(i, 100);
  ranks_[0]->sink().AwaitEnded(6);
  EXPECT_EQ(ranks_[0]->sink().tokens(), wanted);
  EXPECT_GT(ranks_[0]->engine().Stats().preemptions, 0);
  LeaveAll();
}

TEST_F(RankGroupTest, ARankThatDiesLosesTheStepAndTheGroupFormsAgain) {
  Start(2);
  ranks_[0]->Submit(0, 120);
  ranks_[0]->sink().AwaitTokens("request-0", 3);
  ranks_[1]->Die();
  ranks_[0]->sink().AwaitLost(2);
  EXPECT_THAT(ranks_[0]->sink().lost().back(), HasSubstr("epoch 1 ended by rank 1"));
  EXPECT_LT(ranks_[0]->sink().tokens()["request-0"].size(), 120u);

  ranks_[1]->Join(*rendezvous_);
  for (auto& rank : ranks_) rank->AwaitEpoch(2);
  ranks_[0]->Submit(1, 20);
  ranks_[0]->sink().AwaitEnded(1);
  EXPECT_EQ(ranks_[0]->sink().tokens()["request-1"], Alone(2, 20)["request-1"]);
  LeaveAll();
}

TEST_F(RankGroupTest, ARankThatLeavesTakesPartUntilAllDo) {
  Start(2);
  ranks_[0]->Submit(0, 60);
  ranks_[0]->sink().AwaitTokens("request-0", 3);
  std::thread leaves([&] { ranks_[1]->group().Leave(kWait); });
  ranks_[0]->AwaitPeerLeaves();
  ranks_[0]->sink().AwaitEnded(1);
  EXPECT_EQ(ranks_[0]->sink().tokens(), Alone(1, 60));
  ranks_[0]->group().Leave(kWait);
  leaves.join();
  for (auto& rank : ranks_) EXPECT_THAT(rank->sink().lost(), ::testing::SizeIs(1)) << "the first";
}

}  // namespace
}  // namespace facet::test
