// What rank 0's side of the control connections decides, message by message. Whole groups with
// faults are in tests/sim/group_sim_test.cc.
#include "worker/comm/group_hub.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

namespace facet::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kNsPerMs = 1'000'000;

// A hub, and what it sends to whom.
class Hub : private GroupHub::Wire {
 public:
  explicit Hub(int32_t num_ranks)
      : hub_({.num_ranks = num_ranks,
              .group_key = "key",
              .heartbeat_ns = 100 * kNsPerMs,
              .silence_ns = 800 * kNsPerMs,
              .spare_after_ns = 1500 * kNsPerMs,
              .assign_ns = 3000 * kNsPerMs},
             *this) {}

  // A process comes as this rank; returns its connection.
  int64_t Come(int32_t rank, int64_t epoch_min = 1, int32_t num_ranks = 2) {
    const int64_t connection = num_connections_++;
    hub_.OnConnected(connection, "peer");
    ControlMessage hello = {.type = ControlType::kHello,
                            .rank = rank,
                            .num_ranks = num_ranks,
                            .epoch = epoch_min,
                            .texts = {FreshNonce(), "", StrCat("address of ", rank)}};
    hello.texts[1] = GroupProof("key", ProofBy::kRank, Last(connection).texts.at(0), hello);
    hub_.OnMessage(connection, std::move(hello));
    return connection;
  }

  void Say(int64_t connection, ControlMessage message) {
    hub_.OnMessage(connection, std::move(message));
  }

  void SayStep(int64_t connection, int64_t step, int64_t num_tokens, int64_t epoch = 1) {
    Say(connection,
        {.type = ControlType::kStep, .epoch = epoch, .step = step, .numbers = {num_tokens, 0, 0}});
  }

  // The data paths of these ranks, which are all, are whole: steps count from 0.
  void Connect(const std::vector<int64_t>& ranks, int64_t epoch = 1) {
    for (const int64_t rank : ranks) SayStep(rank, kConnectedStep, 0, epoch);
  }

  // Time passes; only these connections are heard.
  void Pass(int64_t ms, const std::set<int64_t>& heard) {
    for (int64_t i = 0; i < ms; i += 20) {
      now_ns_ += 20 * kNsPerMs;
      for (const int64_t connection : heard) Say(connection, {});
      hub_.Tick(now_ns_);
    }
  }

  // The last message that is no heartbeat.
  const ControlMessage& Last(int64_t connection) { return sent_[connection].back(); }

  size_t Count(int64_t connection, ControlType type) {
    size_t count = 0;
    for (const ControlMessage& message : sent_[connection]) count += message.type == type ? 1 : 0;
    return count;
  }

  bool closed(int64_t connection) const { return closed_.contains(connection); }

 private:
  void Send(int64_t connection, const ControlMessage& message) override {
    if (message.type != ControlType::kHeartbeat) sent_[connection].push_back(message);
  }

  void FinishSending(int64_t /*connection*/) override {}

  void Close(int64_t connection) override { closed_.insert(connection); }

  int64_t now_ns_ = kNsPerMs;
  int64_t num_connections_ = 0;
  std::map<int64_t, std::vector<ControlMessage>> sent_;
  std::set<int64_t> closed_;
  GroupHub hub_;
};

TEST(GroupHubTest, TheGroupTakesTheHighestEpoch) {
  Hub hub(3);
  const int64_t ranks[] = {hub.Come(0, 4, 3), hub.Come(1, 9, 3), hub.Come(2, 1, 3)};
  for (const int64_t rank : ranks) {
    EXPECT_EQ(hub.Last(rank).type, ControlType::kStart);
    EXPECT_EQ(hub.Last(rank).epoch, 9);
  }
}

TEST(GroupHubTest, ARankThatIsHeardKeepsItsSeat) {
  for (const bool started : {false, true}) {
    Hub hub(2);
    const int64_t first = hub.Come(1);
    if (started) hub.Come(0);
    const int64_t second = hub.Come(1);
    EXPECT_EQ(hub.Last(second).type, ControlType::kRefused);
    EXPECT_THAT(hub.Last(second).numbers, ElementsAre(static_cast<int64_t>(RefusedWhy::kTaken)));
    EXPECT_NE(hub.Last(first).type, ControlType::kFault);
  }
}

TEST(GroupHubTest, ARankThatComesAnewEndsTheGroupInWhichItHasFallenSilent) {
  Hub hub(2);
  const int64_t zero = hub.Come(0);
  hub.Come(1);
  hub.Pass(400, {zero});
  const int64_t anew = hub.Come(1);
  EXPECT_EQ(hub.Last(zero).type, ControlType::kFault);
  EXPECT_EQ(hub.Last(zero).kind, FaultKind::kLost);
  EXPECT_EQ(hub.Last(zero).rank, 1);
  EXPECT_THAT(hub.Last(zero).texts, ElementsAre("came to the rendezvous anew"));
  EXPECT_THAT(hub.Last(anew).numbers, ElementsAre(static_cast<int64_t>(RefusedWhy::kAgain)));
}

TEST(GroupHubTest, ASilentRankLosesItsSeatWhileTheGroupForms) {
  Hub hub(2);
  const int64_t silent = hub.Come(1);
  hub.Pass(1000, {});
  EXPECT_TRUE(hub.closed(silent));
  const int64_t again = hub.Come(1);
  hub.Come(0);
  EXPECT_EQ(hub.Last(again).type, ControlType::kStart);
}

TEST(GroupHubTest, AStepCallsTheOthersAndBeginsWithWhatAllBrought) {
  Hub hub(2);
  const int64_t zero = hub.Come(0);
  const int64_t one = hub.Come(1);
  hub.Connect({zero, one});
  hub.SayStep(one, 0, 7);
  EXPECT_EQ(hub.Last(zero).type, ControlType::kCalled);
  EXPECT_EQ(hub.Last(one).step, kConnectedStep);
  hub.SayStep(zero, 0, 0);
  for (const int64_t rank : {zero, one}) {
    EXPECT_EQ(hub.Last(rank).type, ControlType::kBegins);
    EXPECT_THAT(hub.Last(rank).numbers, ElementsAre(0, 0, 0, 7, 0, 0));
  }
  hub.SayStep(zero, 1, 1);
  EXPECT_EQ(hub.Last(one).type, ControlType::kCalled);
  EXPECT_EQ(hub.Last(one).step, 1);
}

TEST(GroupHubTest, AWordOfAnotherEpochIsNotHeard) {
  Hub hub(2);
  const int64_t zero = hub.Come(0, 5);
  const int64_t one = hub.Come(1, 5);
  hub.Connect({zero, one}, 5);
  hub.SayStep(one, 0, 7, 4);
  hub.Say(one, {.type = ControlType::kFault, .epoch = 4, .texts = {"late"}});
  EXPECT_EQ(hub.Last(zero).type, ControlType::kBegins);
  hub.SayStep(one, 0, 7, 5);
  EXPECT_EQ(hub.Last(zero).type, ControlType::kCalled);
}

TEST(GroupHubTest, ARankOutOfStepEndsTheGroup) {
  const std::vector<int64_t> wishes[] = {{1, 0}, {-1, 0}, {1}, {1LL << 40, 0}};
  for (const std::vector<int64_t>& wish : wishes) {
    Hub hub(2);
    const int64_t zero = hub.Come(0);
    const int64_t one = hub.Come(1);
    hub.Connect({zero, one});
    const int64_t step = wish == wishes[0] ? 1 : 0;  // The first is a wish, for another step.
    hub.Say(one, {.type = ControlType::kStep, .epoch = 1, .step = step, .numbers = wish});
    EXPECT_EQ(hub.Last(zero).type, ControlType::kFault);
    EXPECT_EQ(hub.Last(zero).rank, 1);
    EXPECT_THAT(hub.Last(zero).texts.at(0), HasSubstr("where step 0 is next"));
  }
}

TEST(GroupHubTest, WhoIsMissingAtADeadlineIsNamed) {
  Hub hub(3);
  const int64_t zero = hub.Come(0, 1, 3);
  const int64_t one = hub.Come(1, 1, 3);
  hub.Connect({zero, one, hub.Come(2, 1, 3)});
  hub.SayStep(zero, 0, 1);
  hub.SayStep(one, 0, 1);
  hub.Say(one, {.type = ControlType::kFault,
                .kind = FaultKind::kDeadline,
                .rank = -1,
                .epoch = 1,
                .step = 0,
                .texts = {"not ready"}});
  EXPECT_EQ(hub.Last(zero).type, ControlType::kFault);
  EXPECT_EQ(hub.Last(zero).rank, 2);
}

TEST(GroupHubTest, ASpareGetsARankThatStaysAwayAndAnotherOneIfItDoesNotCome) {
  Hub hub(2);
  const int64_t zero = hub.Come(0);
  const int64_t first = hub.Come(kSpareRank);
  const int64_t second = hub.Come(kSpareRank);
  hub.Pass(1400, {zero, first, second});
  EXPECT_EQ(hub.Count(first, ControlType::kAssign), 0U);
  hub.Pass(200, {zero, first, second});
  EXPECT_EQ(hub.Last(first).type, ControlType::kAssign);
  EXPECT_EQ(hub.Last(first).rank, 1);
  hub.Pass(2800, {zero, second});
  EXPECT_EQ(hub.Count(second, ControlType::kAssign), 0U);
  hub.Pass(400, {zero, second});
  EXPECT_EQ(hub.Last(second).type, ControlType::kAssign);
  const int64_t joined = hub.Come(1);
  EXPECT_EQ(hub.Last(joined).type, ControlType::kStart);
}

TEST(GroupHubTest, ASpareWaitsWhileNobodyIsMissing) {
  Hub hub(2);
  const int64_t zero = hub.Come(0);
  const int64_t spare = hub.Come(kSpareRank);
  const int64_t one = hub.Come(1);
  hub.Pass(5000, {zero, one, spare});
  EXPECT_EQ(hub.Count(spare, ControlType::kAssign), 0U);
  EXPECT_FALSE(hub.closed(spare));
}

TEST(GroupHubTest, ARankThatLeavesAfterEverybodysLastStepIsNoLoss) {
  Hub hub(2);
  const int64_t zero = hub.Come(0);
  const int64_t one = hub.Come(1);
  hub.Connect({zero, one});
  for (const int64_t rank : {zero, one}) {
    hub.Say(rank, {.type = ControlType::kStep, .epoch = 1, .numbers = {0, 0, 1}});
  }
  hub.Say(one, {.type = ControlType::kLeave, .rank = 1, .epoch = 1});
  EXPECT_EQ(hub.Last(zero).type, ControlType::kLeave);
  EXPECT_EQ(hub.Count(zero, ControlType::kFault), 0U);
  hub.SayStep(zero, 1, 1);  // Against what it said.
  EXPECT_EQ(hub.Last(zero).type, ControlType::kFault);
  EXPECT_EQ(hub.Last(zero).rank, 1);
}

}  // namespace
}  // namespace facet::worker
