// Whole ranks in one process: engines, executors and the groups they form. What a request gets is
// what one process with all experts gives it. On CPUs ranks talk through the local communicator;
// on emulated GPUs through NCCL's, over a stand-in for the library, on the backends' streams.
#include "worker/executor/rank_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <map>
#include <optional>
#include <random>
#include <utility>

#include "base/reserved_port.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/support/fake_nccl/fake_nccl.h"
#include "worker/comm/local_communicator.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/engine/engine.h"
#include "worker/engine/warm_up.h"

namespace facet::test {
namespace {

using testing::HasSubstr;
using worker::Communicator;
using worker::Engine;
using worker::ModelExecutor;
using worker::RankGroup;

constexpr uint64_t kSession = 1;
constexpr absl::Duration kWait = absl::Seconds(60);
constexpr absl::Duration kStepTimeout = absl::Seconds(5);

// What ranks run on, and how they come together. One for each group.
class Machine {
 public:
  virtual ~Machine() = default;

  virtual std::unique_ptr<kernels::Backend> MakeBackend(int32_t rank) = 0;

  // stream: the backend's, if it has one.
  virtual StatusOr<std::unique_ptr<Communicator>> Form(int32_t rank,
                                                       int64_t epoch_min,
                                                       absl::Duration timeout,
                                                       const kernels::DeviceStream* stream) = 0;
};

class CpuMachine final : public Machine {
 public:
  explicit CpuMachine(int32_t num_ranks) : rendezvous_(num_ranks) {}

  std::unique_ptr<kernels::Backend> MakeBackend(int32_t /*rank*/) override {
    return std::make_unique<kernels::CpuBackend>(kernels::CpuTier::kScalar, 1);
  }

  StatusOr<std::unique_ptr<Communicator>> Form(int32_t rank,
                                               int64_t epoch_min,
                                               absl::Duration timeout,
                                               const kernels::DeviceStream* /*stream*/) override {
    return rendezvous_.Form(rank, epoch_min, timeout);
  }

 private:
  worker::LocalRendezvous rendezvous_;
};

// A GPU for each rank.
class EmulatedGpuMachine final : public Machine {
 public:
  explicit EmulatedGpuMachine(int32_t num_ranks) : num_ranks_(num_ranks) {}

  std::unique_ptr<kernels::Backend> MakeBackend(int32_t rank) override {
    return std::make_unique<kernels::CudaBackend>(kernels::CudaOptions{.device = rank});
  }

  StatusOr<std::unique_ptr<Communicator>> Form(int32_t rank,
                                               int64_t epoch_min,
                                               absl::Duration timeout,
                                               const kernels::DeviceStream* stream) override {
    return worker::FormNccl({.control = {.rank = rank,
                                         .num_ranks = num_ranks_,
                                         .epoch_min = epoch_min,
                                         .rendezvous_address = StrCat("127.0.0.1:", port_.port()),
                                         .group_key = "key of the test"},
                             .library = FAKE_NCCL,
                             .stream = stream},
                            timeout);
  }

 private:
  const int32_t num_ranks_;
  const ReservedPort port_ = ReservedPort::Reserve().value();
};

template <typename M>
std::unique_ptr<Machine> Make(int32_t num_ranks) {
  return std::make_unique<M>(num_ranks);
}

struct MachineKind {
  const char* name;
  std::unique_ptr<Machine> (*make)(int32_t num_ranks);
  int32_t tokens_divisor = 1;  // Of what a test asks for: the emulator is slow.
};

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

  void OnSettled(worker::SettledAccount) override {}

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
  Rank(Machine& machine, int32_t rank, int32_t num_ranks, int64_t kv_bytes = 8 << 20)
      : machine_(machine), rank_(rank) {
    std::unique_ptr<kernels::Backend> backend = machine.MakeBackend(rank);
    stream_ = backend->device_stream();
    StatusOr<std::unique_ptr<ModelExecutor>> executor =
        ModelExecutor::Create({.model_directory = "tests/golden/models/moe",
                               .kv_bytes = kv_bytes,
                               .running_max = 4,
                               .step_tokens_max = 32,
                               .experts = {.rank = rank, .num_ranks = num_ranks},
                               .group_timeout = kStepTimeout},
                              std::move(backend));
    FACET_CHECK(executor.ok()) << executor.status().ToString();
    executor_ = *std::move(executor);
    engine_ =
        std::make_unique<Engine>(worker::EngineOptions{.scheduler = {.running_max = 4,
                                                                     .waiting_max = 100,
                                                                     .step_tokens_max = 32,
                                                                     .chunk_tokens_max = 32,
                                                                     .context_tokens_max = 200},
                                                       .prices = worker::PriceSchedule(3.6)},
                                 *executor_, sink_, Clock::Real());
    if (num_ranks > 1) engine_->Suspend(Unavailable("not formed"));
    engine_->Start();
    engine_->OpenSession(kSession);
  }

  // The step model that the rank has been warmed up to; nothing if that failed. Before Join.
  std::future<StatusOr<worker::StepModel>> WarmUpFirst() {
    warm_up_.emplace();
    return warm_up_->get_future();
  }

  // Takes part in nothing. Before Join.
  void StayCold() { stays_cold_ = true; }

  // Comes to the group.
  void Join() {
    group_ = std::make_unique<RankGroup>(
        [this](int64_t epoch_min, absl::Duration timeout) {
          return machine_.Form(rank_, epoch_min, timeout, stream_);
        },
        *executor_,
        RankGroup::Events{.on_formed =
                              [this](int64_t epoch) {
                                engine_->Resume([this] { Resumed(); });
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
  void Resumed() {
    if (stays_cold_) return;
    if (warm_up_) warm_up_->set_value(worker::WarmUp(*executor_, 4000));
    warm_up_.reset();
    executor_->ServeOthers();
  }

  Machine& machine_;
  const int32_t rank_;
  std::optional<std::promise<StatusOr<worker::StepModel>>> warm_up_;
  bool stays_cold_ = false;
  const kernels::DeviceStream* stream_ = nullptr;
  Sink sink_;
  std::unique_ptr<ModelExecutor> executor_;
  std::unique_ptr<Engine> engine_;
  absl::Mutex mutex_;
  int64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  bool peer_leaves_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<RankGroup> group_;
};

class RankGroupTest : public ::testing::TestWithParam<MachineKind> {
 protected:
  void MakeRanks(int32_t num_ranks, int64_t kv_bytes = 8 << 20) {
    machine_ = GetParam().make(num_ranks);
    for (int32_t rank = 0; rank < num_ranks; ++rank) {
      ranks_.push_back(std::make_unique<Rank>(*machine_, rank, num_ranks, kv_bytes));
    }
  }

  void Start(int32_t num_ranks, int64_t kv_bytes = 8 << 20) {
    MakeRanks(num_ranks, kv_bytes);
    for (auto& rank : ranks_) rank->Join();
    for (auto& rank : ranks_) rank->AwaitEpoch(1);
  }

  static int32_t Tokens(int32_t count) { return count / GetParam().tokens_divisor; }

  // What one process gives to these requests.
  static std::map<std::string, std::vector<int32_t>> Alone(const std::vector<int32_t>& numbers,
                                                           int32_t new_tokens) {
    const std::unique_ptr<Machine> machine = GetParam().make(1);
    Rank alone(*machine, 0, 1);
    for (const int32_t number : numbers) alone.Submit(number, new_tokens);
    alone.sink().AwaitEnded(static_cast<int>(numbers.size()));
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

  std::unique_ptr<Machine> machine_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

class CpuRankGroupTest : public RankGroupTest {};

class GpuRankGroupTest : public RankGroupTest {};

TEST_P(RankGroupTest, RequestsOfOneRankAloneAreAnswered) {
  Start(4);
  for (int i = 0; i < 6; ++i) ranks_[2]->Submit(i, Tokens(20));
  ranks_[2]->sink().AwaitEnded(6);
  EXPECT_EQ(ranks_[2]->sink().tokens(), Alone({0, 1, 2, 3, 4, 5}, Tokens(20)));
  LeaveAll();
  for (auto& rank : ranks_) EXPECT_THAT(rank->sink().lost(), ::testing::SizeIs(1)) << "the first";
}

TEST_P(RankGroupTest, RanksThatComeAndWorkAtDifferentTimesAnswerAlike) {
  MakeRanks(2);
  ranks_[1]->Join();
  absl::SleepFor(absl::Milliseconds(300));
  ranks_[0]->Join();
  for (auto& rank : ranks_) rank->AwaitEpoch(1);
  for (int i = 0; i < 8; ++i) {
    ranks_[static_cast<size_t>(i % 2)]->Submit(i, Tokens(20));
    absl::SleepFor(absl::Milliseconds(i % 3 * 10));
  }
  std::map<std::string, std::vector<int32_t>> tokens;
  for (auto& rank : ranks_) {
    rank->sink().AwaitEnded(4);
    tokens.merge(rank->sink().tokens());
  }
  EXPECT_EQ(tokens, Alone({0, 1, 2, 3, 4, 5, 6, 7}, Tokens(20)));
  LeaveAll();
}

TEST_P(CpuRankGroupTest, ARankThatPreemptsKeepsItsTokens) {
  const std::map<std::string, std::vector<int32_t>> wanted = Alone({0, 1, 2, 3, 4, 5}, 100);
  // Room for some sequences, but not at their full length.
  Start(2, /*kv_bytes=*/160 << 10);
  for (int i = 0; i < 6; ++i) ranks_[0]->Submit(i, 100);
  ranks_[0]->sink().AwaitEnded(6);
  EXPECT_EQ(ranks_[0]->sink().tokens(), wanted);
  EXPECT_GT(ranks_[0]->engine().Stats().preemptions, 0);
  LeaveAll();
}

// What requests of a rank paid is what its device spent, what others' devices did for them less
// what it did for others'. Returns what was paid.
worker::Spent ExpectSumsHold(const worker::EngineStats& stats) {
  worker::Spent paid;
  for (const auto& [tenant, use] : stats.tenants) {
    paid += use.prefill;
    paid += use.decode;
  }
  worker::Spent spent = stats.borrowed;
  spent -= stats.lent;
  worker::Spent held;
  for (int i = 0; i < worker::kNumDeviceStates; ++i) {
    held += stats.states[i];
    if (worker::IsBusy(static_cast<worker::DeviceState>(i))) spent += stats.states[i];
  }
  EXPECT_EQ(paid, spent);
  EXPECT_EQ(held, stats.held);
  return paid;
}

TEST_P(RankGroupTest, RequestsOfOneRankPayForTheDevicesOfAll) {
  Start(2);
  for (int i = 0; i < 4; ++i) ranks_[0]->Submit(i, Tokens(20));
  ranks_[0]->sink().AwaitEnded(4);
  LeaveAll();
  const worker::EngineStats busy = ranks_[0]->engine().Stats();
  const worker::EngineStats idle = ranks_[1]->engine().Stats();
  const worker::Spent paid = ExpectSumsHold(busy);
  EXPECT_EQ(busy.lent, worker::Spent());
  EXPECT_EQ(paid.ns, 2 * busy.borrowed.ns) << "two devices, no other rank's request";
  EXPECT_EQ(ExpectSumsHold(idle), worker::Spent());
  EXPECT_EQ(idle.borrowed, worker::Spent());
  EXPECT_EQ(idle.lent, idle.states[static_cast<int>(worker::DeviceState::kAssist)]);
  EXPECT_GT(idle.lent.ns, 0);
  std::printf("borrowed %.3f ms, lent %.3f ms: each rank has a clock of its own\n",
              static_cast<double>(busy.borrowed.ns) / 1e6, static_cast<double>(idle.lent.ns) / 1e6);
}

TEST_P(RankGroupTest, RanksThatWorkTogetherKeepTheirSums) {
  Start(2);
  for (int i = 0; i < 8; ++i) ranks_[static_cast<size_t>(i % 2)]->Submit(i, Tokens(5 * (i + 1)));
  for (auto& rank : ranks_) rank->sink().AwaitEnded(4);
  LeaveAll();
  for (auto& rank : ranks_) EXPECT_GT(ExpectSumsHold(rank->engine().Stats()).ns, 0);
}

// However they come: what a rank measured alone would be its own.
TEST_P(CpuRankGroupTest, RanksThatWarmUpTogetherHaveOneStepModel) {
  MakeRanks(4);
  std::vector<std::future<StatusOr<worker::StepModel>>> models;
  for (auto& rank : ranks_) {
    models.push_back(rank->WarmUpFirst());
    rank->Join();
    absl::SleepFor(absl::Milliseconds(50));
  }
  const std::string yaml = models[0].get()->ToYaml();
  for (size_t i = 1; i < models.size(); ++i) EXPECT_EQ(models[i].get()->ToYaml(), yaml);
  EXPECT_NE(yaml, worker::StepModel().ToYaml());
  ranks_[1]->Submit(1, 20);
  ranks_[1]->sink().AwaitEnded(1);
  EXPECT_EQ(ranks_[1]->sink().tokens(), Alone({1}, 20)) << "nothing of the warm-up stays";
  LeaveAll();
}

TEST_P(CpuRankGroupTest, AWarmUpFailsWithItsGroup) {
  MakeRanks(2);
  auto model = ranks_[0]->WarmUpFirst();
  ranks_[1]->StayCold();
  for (auto& rank : ranks_) rank->Join();
  for (auto& rank : ranks_) rank->AwaitEpoch(1);
  ranks_[1]->Die();
  EXPECT_THAT(MessageOf(model.get().status()), HasSubstr("epoch 1 ended by rank 1"));
}

TEST_P(RankGroupTest, ARankThatDiesLosesTheStepAndTheGroupFormsAgain) {
  Start(2);
  ranks_[0]->Submit(0, 120);
  ranks_[0]->sink().AwaitTokens("request-0", 3);
  ranks_[1]->Die();
  ranks_[0]->sink().AwaitLost(2);
  EXPECT_THAT(ranks_[0]->sink().lost().back(), HasSubstr("epoch 1 ended by rank 1"));
  EXPECT_LT(ranks_[0]->sink().tokens()["request-0"].size(), 120u);

  ranks_[1]->Join();
  for (auto& rank : ranks_) rank->AwaitEpoch(2);
  ranks_[0]->Submit(1, Tokens(20));
  ranks_[0]->sink().AwaitEnded(1);
  EXPECT_EQ(ranks_[0]->sink().tokens()["request-1"], Alone({1}, Tokens(20))["request-1"]);
  LeaveAll();
}

TEST_P(RankGroupTest, ARankThatLeavesTakesPartUntilAllDo) {
  Start(2);
  ranks_[0]->Submit(0, Tokens(60));
  ranks_[0]->sink().AwaitTokens("request-0", 3);
  std::thread leaves([&] { ranks_[1]->group().Leave(kWait); });
  ranks_[0]->AwaitPeerLeaves();
  ranks_[0]->sink().AwaitEnded(1);
  EXPECT_EQ(ranks_[0]->sink().tokens(), Alone({0}, Tokens(60)));
  ranks_[0]->group().Leave(kWait);
  leaves.join();
  for (auto& rank : ranks_) EXPECT_THAT(rank->sink().lost(), ::testing::SizeIs(1)) << "the first";
}

// The host of a rank enqueues whole steps; what waits is its stream.
TEST_P(GpuRankGroupTest, AStepWhoseTransfersHangEndsAtItsDeadlineAndTheGroupFormsAgain) {
  FakeNcclSwitches& switches = SwitchesOf(FAKE_NCCL);
  Start(2);
  ranks_[0]->Submit(0, 120);
  ranks_[0]->sink().AwaitTokens("request-0", 1);
  switches.stuck_ranks[0] = 0;
  switches.stuck_ranks[1] = 1;
  ranks_[0]->sink().AwaitLost(2);
  switches.stuck_ranks[0] = -1;
  switches.stuck_ranks[1] = -1;
  EXPECT_THAT(ranks_[0]->sink().lost()[1], HasSubstr("is not complete at its deadline"));
  // Nothing that the failed step has drawn.
  const std::vector<int32_t> got = ranks_[0]->sink().tokens()["request-0"];
  EXPECT_EQ(got, Alone({0}, static_cast<int32_t>(got.size()))["request-0"]);

  for (auto& rank : ranks_) rank->AwaitEpoch(2);
  ranks_[1]->Submit(1, Tokens(20));
  ranks_[1]->sink().AwaitEnded(1);
  EXPECT_EQ(ranks_[1]->sink().tokens(), Alone({1}, Tokens(20)));
  LeaveAll();
}

constexpr MachineKind kCpus{"cpu", Make<CpuMachine>};
constexpr MachineKind kEmulatedGpus{"emulated_gpus", Make<EmulatedGpuMachine>, 5};

std::string NameOf(const ::testing::TestParamInfo<MachineKind>& row) { return row.param.name; }

INSTANTIATE_TEST_SUITE_P(Machines, RankGroupTest, ::testing::Values(kCpus, kEmulatedGpus), NameOf);
INSTANTIATE_TEST_SUITE_P(Machines, CpuRankGroupTest, ::testing::Values(kCpus), NameOf);
INSTANTIATE_TEST_SUITE_P(Machines, GpuRankGroupTest, ::testing::Values(kEmulatedGpus), NameOf);

}  // namespace
}  // namespace facet::test
