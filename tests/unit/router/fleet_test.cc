#include "router/routing/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/grpc_status.h"

namespace facet::router {
namespace {

using Kind = Fleet::Action::Kind;
using ::testing::HasSubstr;

constexpr int64_t kMs = 1'000'000;

std::vector<WorkerConfig> TwoWorkers() {
  std::vector<WorkerConfig> workers(2);
  for (int i = 0; i < 2; ++i) {
    workers[static_cast<size_t>(i)].pool = "p";
    workers[static_cast<size_t>(i)].index = i;
    workers[static_cast<size_t>(i)].model = "m";
    workers[static_cast<size_t>(i)].config_digest = "c";
    workers[static_cast<size_t>(i)].tokenizer_digest = "t";
  }
  return workers;
}

worker::v1::DescribeResponse Description(int index) {
  worker::v1::DescribeResponse response;
  response.set_model("m");
  response.set_pool("p");
  response.set_index(index);
  response.set_config_digest("c");
  response.set_tokenizer_digest("t");
  response.set_weights_digest("w");
  response.set_context_tokens_max(100);
  return response;
}

worker::v1::Heartbeat Beat(uint64_t sequences = 2, uint64_t prefill_tokens = 100) {
  worker::v1::Heartbeat heartbeat;
  heartbeat.set_ready(true);
  heartbeat.mutable_credits()->set_sequences(sequences);
  heartbeat.mutable_credits()->set_prefill_tokens(prefill_tokens);
  return heartbeat;
}

class FleetTest : public ::testing::Test {
 protected:
  // Brings worker `index` to its first heartbeat; returns its session.
  uint64_t Connect(int index) {
    const auto actions = fleet_.OnDescribed(index, Description(index), now_);
    EXPECT_EQ(actions.at(0).kind, Kind::kOpenSession);
    fleet_.OnHeartbeat(index, actions[0].session, Beat(), now_);
    return actions[0].session;
  }

  v1::WorkerStatus StatusOf(int index) {
    return fleet_.Snapshot()->workers[static_cast<size_t>(index)].status;
  }

  RouteCandidate Candidate(int index) { return fleet_.Candidates("m")[static_cast<size_t>(index)]; }

  int64_t now_ = 1000 * kMs;
  Fleet fleet_{TwoWorkers(), FleetOptions()};
};

TEST_F(FleetTest, DescribesEveryWorkerOnceAtTheStart) {
  EXPECT_EQ(fleet_.OnTick(now_).size(), 2u);
  EXPECT_TRUE(fleet_.OnTick(now_ + 100 * kMs).empty());
}

TEST_F(FleetTest, TheSnapshotSaysWhenAWorkerWasHeardLast) {
  const auto heard = [&] { return fleet_.Snapshot()->workers[0].last_heard_ns; };
  EXPECT_EQ(heard(), 0);
  const uint64_t session = Connect(0);
  EXPECT_EQ(heard(), now_);
  fleet_.OnHeartbeat(0, session, Beat(), now_ + 100 * kMs);
  EXPECT_EQ(heard(), now_ + 100 * kMs);
  fleet_.OnSessionEnded(0, session, Unavailable("gone"), now_ + 200 * kMs);
  EXPECT_EQ(heard(), 0);
}

TEST_F(FleetTest, AWorkerIsReadyAfterItsFirstHeartbeat) {
  const auto actions = fleet_.OnDescribed(0, Description(0), now_);
  EXPECT_FALSE(Candidate(0).ready);
  fleet_.OnHeartbeat(0, actions.at(0).session, Beat(), now_);
  EXPECT_TRUE(Candidate(0).ready);
  EXPECT_EQ(fleet_.Snapshot()->ContextTokensMax("m"), 100);
  EXPECT_FALSE(fleet_.Candidates("other")[0].ready);
}

TEST_F(FleetTest, OtherFilesAreAMismatchAndNeverRoutedTo) {
  worker::v1::DescribeResponse other = Description(0);
  other.set_tokenizer_digest("x");
  EXPECT_TRUE(fleet_.OnDescribed(0, other, now_).empty());
  EXPECT_EQ(StatusOf(0).state(), v1::WORKER_STATE_MISMATCH);
  EXPECT_THAT(StatusOf(0).reason(), HasSubstr("its tokenizer.json digest is x"));
}

TEST_F(FleetTest, OtherWeightsThanTheFirstWorkersAreAMismatch) {
  Connect(0);
  worker::v1::DescribeResponse other = Description(1);
  other.set_weights_digest("v");
  EXPECT_TRUE(fleet_.OnDescribed(1, other, now_).empty());
  EXPECT_THAT(StatusOf(1).reason(), HasSubstr("but worker p/0 has w"));
}

TEST_F(FleetTest, AWorkerThatLoadsIsCalledAgainWithGrowingPauses) {
  const Status loading = WithReason(Unavailable("weights load"), "LOADING");
  EXPECT_TRUE(fleet_.OnTick(now_).size() == 2);
  fleet_.OnDescribed(0, loading, now_);
  EXPECT_EQ(StatusOf(0).state(), v1::WORKER_STATE_LOADING);
  EXPECT_TRUE(fleet_.OnTick(now_ + 99 * kMs).empty());
  EXPECT_EQ(fleet_.OnTick(now_ + 100 * kMs).size(), 1u);
  fleet_.OnDescribed(0, loading, now_ + 100 * kMs);
  EXPECT_TRUE(fleet_.OnTick(now_ + 299 * kMs).empty());
  EXPECT_EQ(fleet_.OnTick(now_ + 300 * kMs).size(), 1u);
}

TEST_F(FleetTest, CreditsAreTotalsLessWhatWasSent) {
  const uint64_t session = Connect(0);
  fleet_.OnSubmitted(0, 60);
  EXPECT_EQ(Candidate(0).sequence_credits, 1);
  EXPECT_EQ(Candidate(0).prefill_token_credits, 40);
  EXPECT_EQ(Candidate(0).prefill_tokens_ahead, 60);
  fleet_.OnRefused(0, session, 60);
  EXPECT_EQ(Candidate(0).prefill_token_credits, 100);
  fleet_.OnSubmitted(0, 60);
  fleet_.OnHeartbeat(0, session, Beat(3, 160), now_);
  EXPECT_EQ(Candidate(0).sequence_credits, 2);
  EXPECT_EQ(Candidate(0).prefill_token_credits, 100);
}

// Reports cross submits on their way: what a report does not know of yet is still ahead.
TEST_F(FleetTest, AReportCountsWhatHasArrivedAndTheRestIsAhead) {
  const uint64_t session = Connect(0);
  fleet_.OnSubmitted(0, 60);
  fleet_.OnSubmitted(0, 30);
  const auto report = [&](uint64_t sequences, uint64_t tokens, int32_t running, int64_t waiting) {
    worker::v1::Heartbeat heartbeat = Beat(9, 500);
    heartbeat.mutable_credits()->set_sequences_received(sequences);
    heartbeat.mutable_credits()->set_prefill_tokens_received(tokens);
    heartbeat.mutable_load()->set_sequences_running(running);
    heartbeat.mutable_load()->set_prefill_tokens_waiting(waiting);
    fleet_.OnHeartbeat(0, session, heartbeat, now_);
  };
  report(0, 0, 0, 0);
  EXPECT_EQ(Candidate(0).sequences_ahead, 2);
  EXPECT_EQ(Candidate(0).prefill_tokens_ahead, 90);
  report(1, 60, 1, 20);
  EXPECT_EQ(Candidate(0).sequences_ahead, 2);
  EXPECT_EQ(Candidate(0).prefill_tokens_ahead, 50);
  report(2, 90, 1, 0);
  EXPECT_EQ(Candidate(0).sequences_ahead, 1);
  EXPECT_EQ(Candidate(0).prefill_tokens_ahead, 0);
}

TEST_F(FleetTest, AReportOfAnOlderWorkerIsTakenToCountAllThatWasSent) {
  const uint64_t session = Connect(0);
  fleet_.OnSubmitted(0, 60);
  EXPECT_EQ(Candidate(0).sequences_ahead, 1);
  fleet_.OnHeartbeat(0, session, Beat(3, 160), now_);
  EXPECT_EQ(Candidate(0).sequences_ahead, 0);
}

TEST_F(FleetTest, SilenceOfASecondIsDeath) {
  const uint64_t session = Connect(0);
  fleet_.OnTick(now_);
  EXPECT_TRUE(fleet_.OnTick(now_ + 999 * kMs).empty());
  std::vector<Fleet::Action> lost;
  for (const auto& action : fleet_.OnTick(now_ + 1001 * kMs)) {
    if (action.kind == Kind::kCloseSession) lost.push_back(action);
  }
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].session, session);
  EXPECT_THAT(lost[0].reason, HasSubstr("worker p/0 was lost: no heartbeat for 1000 ms"));
  EXPECT_EQ(StatusOf(0).state(), v1::WORKER_STATE_DEAD);
}

TEST_F(FleetTest, ReportsOfAnEarlierSessionChangeNothing) {
  const uint64_t old_session = Connect(0);
  fleet_.OnSessionEnded(0, old_session, Unavailable("reset"), now_);
  const uint64_t session = Connect(0);
  EXPECT_NE(session, old_session);
  fleet_.OnHeartbeat(0, old_session, Beat(50), now_);
  EXPECT_EQ(Candidate(0).sequence_credits, 2);
  EXPECT_TRUE(fleet_.OnSessionEnded(0, old_session, Unavailable("late"), now_).empty());
  EXPECT_TRUE(Candidate(0).ready);
}

struct HungCase {
  std::string name;
  int64_t elapsed_ms = 0;
  int64_t predicted_ms = 0;
  bool want_hung = false;
};

class FleetHungTest : public FleetTest, public ::testing::WithParamInterface<HungCase> {};

TEST_P(FleetHungTest, AStepFarBeyondItsPredictionIsHung) {
  const uint64_t session = Connect(0);
  worker::v1::Heartbeat heartbeat = Beat();
  heartbeat.set_step_elapsed_ms(GetParam().elapsed_ms);
  heartbeat.set_step_predicted_ms(GetParam().predicted_ms);
  const auto actions = fleet_.OnHeartbeat(0, session, heartbeat, now_);
  EXPECT_EQ(!actions.empty(), GetParam().want_hung);
  EXPECT_EQ(StatusOf(0).state() == v1::WORKER_STATE_HUNG, GetParam().want_hung);
}

const HungCase kHung[] = {
    {.name = "idle", .elapsed_ms = 0, .predicted_ms = 0},
    {.name = "at_the_floor", .elapsed_ms = 1000, .predicted_ms = 10},
    {.name = "beyond_the_floor", .elapsed_ms = 1001, .predicted_ms = 10, .want_hung = true},
    {.name = "slow_as_predicted", .elapsed_ms = 8000, .predicted_ms = 2000},
    {.name = "slower_than_four_times", .elapsed_ms = 8001, .predicted_ms = 2000, .want_hung = true},
};

INSTANTIATE_TEST_SUITE_P(All, FleetHungTest, ::testing::ValuesIn(kHung), [](const auto& row) {
  return row.param.name;
});

TEST_F(FleetTest, ADrainingWorkerGetsNothingNew) {
  const uint64_t session = Connect(0);
  worker::v1::Heartbeat heartbeat = Beat();
  heartbeat.set_draining(true);
  fleet_.OnHeartbeat(0, session, heartbeat, now_);
  EXPECT_FALSE(Candidate(0).ready);
  EXPECT_EQ(StatusOf(0).state(), v1::WORKER_STATE_DRAINING);
}

TEST_F(FleetTest, LeasesAreRenewedEverySecond) {
  Connect(0);
  const auto renewals = [this](int64_t at_ms) {
    int count = 0;
    for (const auto& action : fleet_.OnTick(now_ + at_ms * kMs)) {
      count += action.kind == Kind::kRenewLease ? 1 : 0;
    }
    return count;
  };
  EXPECT_EQ(renewals(0), 1);
  EXPECT_EQ(renewals(500), 0);
  EXPECT_EQ(renewals(1000), 1);
}

// Two workers that are the ranks of one group.
class GroupFleetTest : public FleetTest {
 protected:
  static worker::v1::DescribeResponse Rank(int rank, int64_t epoch) {
    worker::v1::DescribeResponse response = Description(rank);
    response.set_group("p");
    response.set_rank(rank);
    response.set_num_ranks(2);
    response.set_group_epoch(epoch);
    return response;
  }

  uint64_t Join(int rank, int64_t epoch) {
    const auto actions = fleet_.OnDescribed(rank, Rank(rank, epoch), now_);
    EXPECT_EQ(actions.back().kind, Kind::kOpenSession);
    fleet_.OnHeartbeat(rank, actions.back().session, Beat(), now_);
    return actions.back().session;
  }
};

TEST_F(GroupFleetTest, IsReadyOnceAllRanksAre) {
  Join(0, 7);
  EXPECT_FALSE(Candidate(0).ready);
  EXPECT_EQ(StatusOf(0).state(), v1::WORKER_STATE_LOADING);
  EXPECT_EQ(StatusOf(0).reason(), "of the 2 ranks of its group 1 are ready in epoch 7");
  Join(1, 7);
  EXPECT_TRUE(Candidate(0).ready);
  EXPECT_TRUE(Candidate(1).ready);
  EXPECT_EQ(StatusOf(1).group_epoch(), 7);
  EXPECT_EQ(StatusOf(1).rank(), 1);
}

TEST_F(GroupFleetTest, LosesAllWhenOneRankIsLost) {
  Join(0, 1);
  const uint64_t session = Join(1, 1);
  fleet_.OnSessionEnded(1, session, Unavailable("gone"), now_);
  EXPECT_FALSE(Candidate(0).ready);
}

TEST_F(GroupFleetTest, ANewerEpochEndsTheSessionsOfTheOlder) {
  const uint64_t stale = Join(0, 1);
  const uint64_t session = Join(1, 1);
  fleet_.OnSessionEnded(1, session, Unavailable("epoch 1 ended"), now_);
  const auto actions = fleet_.OnDescribed(1, Rank(1, 2), now_);
  ASSERT_EQ(actions.size(), 2u);
  EXPECT_EQ(actions[0].kind, Kind::kCloseSession);
  EXPECT_EQ(actions[0].session, stale);
  EXPECT_EQ(actions[0].cause, "epoch");
  EXPECT_THAT(actions[0].reason, HasSubstr("epoch 1 of its group is over: epoch 2 has begun"));
  EXPECT_EQ(actions[1].kind, Kind::kOpenSession);
  // What the old session still says is nobody's.
  fleet_.OnHeartbeat(0, stale, Beat(), now_);
  EXPECT_FALSE(Candidate(0).ready);
}

TEST_F(GroupFleetTest, DrainsWhole) {
  const uint64_t session = Join(0, 1);
  Join(1, 1);
  worker::v1::Heartbeat draining = Beat();
  draining.set_draining(true);
  fleet_.OnHeartbeat(0, session, draining, now_);
  EXPECT_FALSE(Candidate(1).ready);
  EXPECT_EQ(StatusOf(1).state(), v1::WORKER_STATE_DRAINING);
  EXPECT_EQ(StatusOf(1).reason(), "rank 0 of its group drains");
}

TEST_F(GroupFleetTest, ASpareAndAFormingGroupSayWhatTheyWaitFor) {
  fleet_.OnDescribed(0, WithReason(Unavailable("rank 1 is absent"), "GROUP_FORMING"), now_);
  EXPECT_EQ(StatusOf(0).state(), v1::WORKER_STATE_LOADING);
  EXPECT_EQ(StatusOf(0).reason(), "rank 1 is absent");
  fleet_.OnDescribed(1, WithReason(Unavailable("waits for a rank"), "SPARE"), now_);
  EXPECT_EQ(StatusOf(1).state(), v1::WORKER_STATE_SPARE);
}

}  // namespace
}  // namespace facet::router
