// What every Communicator must do with steps, on 1 to 4 ranks: all get one header, an idle rank is
// called, a rank that does not come is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "tests/conformance/communicator_checks.h"
#include "tests/conformance/communicator_peers.h"
#include "worker/comm/communicator.h"

namespace facet::worker {
namespace {

using testing::Each;
using testing::IsEmpty;

// What any rank can say about any rank's wish.
StepWish WishOf(int64_t step, int32_t rank) {
  std::minstd_rand random(static_cast<uint32_t>(step * 64 + rank + 1));
  random.discard(3);
  return {.num_tokens = static_cast<int32_t>(random() % 5000),
          .weight = static_cast<int64_t>(random()) << 21,
          .leaving = random() % 3 == 0};
}

// Nothing if this rank got the header that everybody is to have.
std::string WantHeader(const StatusOr<StepHeader>& header, int64_t step, int32_t num_ranks) {
  if (!header.ok()) return MessageOf(header.status());
  StepHeader want = {.step = step};
  for (int32_t rank = 0; rank < num_ranks; ++rank) want.ranks.push_back(WishOf(step, rank));
  return *header == want ? "" : StrCat("the header of step ", step, " is wrong");
}

// Sleeps until the group calls this rank or ends.
class Sleeper {
 public:
  explicit Sleeper(Communicator& comm) : comm_(comm) {
    comm_.SetListener([this] {
      absl::MutexLock lock(&mutex_);
      woken_ = true;
    });
  }

  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;

  ~Sleeper() { comm_.SetListener(nullptr); }

  // False: it has slept too long.
  bool Sleep() {
    while (!comm_.called() && comm_.status().ok()) {
      absl::MutexLock lock(&mutex_);
      if (!mutex_.AwaitWithTimeout(absl::Condition(&woken_), kPatience)) return false;
      woken_ = false;
    }
    return true;
  }

 private:
  Communicator& comm_;
  absl::Mutex mutex_;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
};

class CommunicatorStepsTest : public testing::TestWithParam<int32_t> {};

TEST_P(CommunicatorStepsTest, AThousandStepsHaveOneHeaderOnAllRanks) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    for (int64_t step = 0; step < 1000; ++step) {
      const auto header = (*comm)->Agree(WishOf(step, seat.rank()), kPatience);
      std::string wrong = WantHeader(header, step, seat.num_ranks());
      if (!wrong.empty()) return wrong;
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorStepsTest, IdleRanksSleepUntilABusyOneCallsThem) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    Sleeper sleeper(**comm);
    for (int64_t step = 0; step < 8; ++step) {
      const bool busy = seat.rank() == step % seat.num_ranks();
      if (busy) absl::SleepFor(absl::Milliseconds(20));
      if (!busy && !sleeper.Sleep()) return StrCat("nobody called for step ", step);
      auto header = (*comm)->Agree({.num_tokens = busy ? 5 : 0}, kPatience);
      SAY_IF_ERROR(header.status());
      if (header->step != step || header->tokens_max() != 5) return "a wrong header";
      for (int32_t rank = 0; rank < seat.num_ranks(); ++rank) {
        const int32_t want = rank == step % seat.num_ranks() ? 5 : 0;
        if (header->ranks[rank].num_tokens != want) return "a wrong wish";
      }
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorStepsTest, NobodyIsCalledBetweenSteps) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    for (int64_t step = 0; step < 3; ++step) {
      SAY_IF_ERROR((*comm)->Agree({.num_tokens = 1}, kPatience).status());
      // No rank goes on before all have looked.
      const Blocks mine(1, std::byte{(*comm)->called()});
      Blocks all(seat.num_ranks());
      SAY_IF_ERROR((*comm)->AllGather(mine, all, kPatience));
      for (const std::byte called : all) {
        if (called != std::byte{0}) return StrCat("called after step ", step);
      }
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorStepsTest, RanksMayComeToAStepLate) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    for (int64_t step = 0; step < 4; ++step) {
      if (seat.rank() == step) absl::SleepFor(absl::Milliseconds(300));
      const auto header = (*comm)->Agree(WishOf(step, seat.rank()), kPatience);
      std::string wrong = WantHeader(header, step, seat.num_ranks());
      if (!wrong.empty()) return wrong;
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorStepsTest, ARankThatNeverComesToAStepIsNamedAtTheDeadline) {
  if (GetParam() == 1) GTEST_SKIP() << "one rank waits for nobody";
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(7, kPatience);
    SAY_IF_ERROR(comm.status());
    SAY_IF_ERROR((*comm)->Agree({}, kPatience).status());
    Status end;
    if (seat.last()) {
      Sleeper sleeper(**comm);
      while ((*comm)->status().ok()) {  // Called, but it does not come.
        if (!sleeper.Sleep()) return "heard nothing";
        absl::SleepFor(absl::Milliseconds(10));
      }
      end = (*comm)->Agree({}, kPatience).status();
    } else {
      const int64_t start_ns = Clock::Real().NowNs();
      end = (*comm)->Agree({.num_tokens = 1}, absl::Milliseconds(300)).status();
      const double seconds = SecondsSince(start_ns);
      if (seconds > kSoonSeconds) return StrCat("took ", seconds, " s");
    }
    std::string wrong = WantEnd(end, absl::StatusCode::kDeadlineExceeded, seat.num_ranks() - 1, 7,
                                "not ready for step 1");
    if (!wrong.empty()) return wrong;
    if ((*comm)->status() != end) return "another end";
    return (*comm)->Agree({}, kPatience).status() == end ? "" : "another end at the next call";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorStepsTest, ARankThatVanishesWhileOthersWaitIsNamedLongBeforeTheDeadline) {
  if (GetParam() == 1) GTEST_SKIP() << "nobody is left";
  for (const int32_t victim : {0, GetParam() - 1}) {
    const auto said = RunRanks(GetParam(), [victim](RankSeat& seat) -> std::string {
      auto comm = seat.Form(3, kPatience);
      SAY_IF_ERROR(comm.status());
      for (int64_t step = 0; step < 3; ++step) {
        SAY_IF_ERROR((*comm)->Agree({.num_tokens = 1}, kPatience).status());
      }
      if (seat.rank() == victim) {
        absl::SleepFor(absl::Milliseconds(100));
        seat.Vanish(*std::move(comm));
        return "";
      }
      const int64_t start_ns = Clock::Real().NowNs();
      const Status end = (*comm)->Agree({.num_tokens = 1}, kPatience).status();
      const double seconds = SecondsSince(start_ns);
      if (seconds > kSoonSeconds) return StrCat("took ", seconds, " s");
      return WantEnd(end, absl::StatusCode::kUnavailable, victim, 3);
    });
    for (int32_t rank = 0; rank < GetParam(); ++rank) {
      if (rank == victim) continue;
      EXPECT_THAT(said[rank], IsEmpty()) << "rank " << rank;
    }
  }
}

TEST_P(CommunicatorStepsTest, ARankThatSleepsHearsOfTheEnd) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(5, kPatience);
    SAY_IF_ERROR(comm.status());
    Sleeper sleeper(**comm);
    SAY_IF_ERROR((*comm)->Agree({}, kPatience).status());
    if (seat.last()) SAY_IF_ERROR((*comm)->Abort(5, "the engine stops"));
    if (!sleeper.Sleep()) return "heard nothing";
    return WantEnd((*comm)->status(), absl::StatusCode::kAborted, seat.num_ranks() - 1, 5,
                   "the engine stops");
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorStepsTest, AfterEverybodysLastStepRanksGoWithoutAFaultAndFormAnew) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    for (int64_t epoch = 1; epoch <= 2; ++epoch) {
      auto comm = seat.Form(epoch, kPatience);
      SAY_IF_ERROR(comm.status());
      auto one = (*comm)->Agree({.leaving = seat.rank() == 0}, kPatience);
      SAY_IF_ERROR(one.status());
      if (!one->any_leaving()) return "nobody leaves";
      if (one->all_leaving() != (seat.num_ranks() == 1)) return "all leave too early";
      auto all = (*comm)->Agree({.leaving = true}, kPatience);
      SAY_IF_ERROR(all.status());
      if (!all->all_leaving()) return "not all leave";
      absl::SleepFor(absl::Milliseconds(60) * seat.rank());
      SAY_IF_ERROR((*comm)->status());
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

INSTANTIATE_TEST_SUITE_P(Ranks, CommunicatorStepsTest, testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace facet::worker
