// What every Communicator must do with blocks and groups, on 1 to 4 ranks; steps are in
// communicator_steps_test.cc.
#include "worker/comm/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/conformance/communicator_checks.h"
#include "tests/conformance/communicator_peers.h"
#include "worker/comm/rank_blocks.h"

namespace facet::worker {
namespace {

using testing::Each;
using testing::IsEmpty;

constexpr int32_t kCapacity = 8;
constexpr int64_t kRowBytes = 1000;

// Content that tells where it came from.
void Fill(std::span<std::byte> rows, int64_t epoch, int64_t round, int32_t from, int32_t to) {
  const uint64_t start = ((epoch * 131 + round) * 137 + from) * 139 + to;
  for (size_t at = 0; at < rows.size(); at += sizeof(uint64_t)) {
    const uint64_t word = (start * 149 + at) * 0x9E3779B97F4A7C15ULL;
    std::memcpy(rows.data() + at, &word, std::min(sizeof word, rows.size() - at));
  }
}

// One rank's buffers, and exchanges through them that check what arrived.
class Exchanger {
 public:
  explicit Exchanger(Communicator& comm, int32_t capacity = kCapacity)
      : comm_(comm),
        layout_(comm.num_ranks(), {.capacity = capacity, .row_bytes = kRowBytes}),
        send_(layout_.num_bytes()),
        recv_(layout_.num_bytes()) {}

  // counts(from, to) rows travel.
  template <typename Counts>
  Status Exchange(int64_t round, const Counts& counts, absl::Duration timeout = kPatience) {
    FACET_RETURN_IF_ERROR(Start(round, counts));
    FACET_RETURN_IF_ERROR(comm_.Await(timeout));
    return Check(round, counts);
  }

  template <typename Counts>
  Status Start(int64_t round, const Counts& counts) {
    for (int32_t to = 0; to < comm_.num_ranks(); ++to) {
      const int64_t count = counts(comm_.rank(), to);
      FACET_RETURN_IF_ERROR(layout_.SetCount(send_, to, count));
      const std::span<std::byte> rows = layout_.Rows(send_, to).first(count * kRowBytes);
      Fill(rows, comm_.epoch(), round, comm_.rank(), to);
    }
    return round % 2 == 0 ? comm_.Dispatch(send_, recv_) : comm_.Combine(send_, recv_);
  }

  template <typename Counts>
  Status Check(int64_t round, const Counts& counts) {
    for (int32_t from = 0; from < comm_.num_ranks(); ++from) {
      FACET_ASSIGN_OR_RETURN(const int32_t count, layout_.CountOf(recv_, from));
      if (count != counts(from, comm_.rank())) {
        return Internal("round ", round, ": ", count, " rows from rank ", from);
      }
      const std::span<std::byte> rows = layout_.Rows(recv_, from).first(count * kRowBytes);
      std::vector<std::byte> want(rows.size());
      Fill(want, comm_.epoch(), round, from, comm_.rank());
      if (!std::equal(rows.begin(), rows.end(), want.begin())) {
        return Internal("round ", round, ": the rows from rank ", from, " are wrong");
      }
    }
    return absl::OkStatus();
  }

  // Writes a count past SetCount's check.
  void Lie(int32_t to, int32_t count) {
    std::memcpy(send_.data() + to * layout_.block_bytes(), &count, sizeof count);
  }

  Status SendAsItIs() {
    FACET_RETURN_IF_ERROR(comm_.Dispatch(send_, recv_));
    return comm_.Await(kPatience);
  }

  StatusOr<int32_t> CountFrom(int32_t rank) { return layout_.CountOf(recv_, rank); }

 private:
  Communicator& comm_;
  RankBlocks layout_;
  Blocks send_;
  Blocks recv_;
};

int64_t SomeRows(int32_t from, int32_t to) { return (from * 3 + to * 5 + 1) % (kCapacity + 1); }

// Nothing if all further calls return the same error.
std::string WantTheSameFromEveryCall(Communicator& comm, const Status& end) {
  Blocks blocks(64L * comm.num_ranks());
  Blocks others(blocks.size());
  const std::span<std::byte> mine = std::span(blocks).first(64);
  for (const Status& status :
       {comm.Dispatch(blocks, others), comm.Combine(blocks, others),
        comm.AllGather(mine, others, kPatience), comm.Dispatch(blocks, others)}) {
    if (status != end) return StrCat("then ", status.ToString(), " after ", end.ToString());
  }
  return "";
}

class CommunicatorTest : public testing::TestWithParam<int32_t> {};

struct CountsCase {
  const char* name;
  int64_t (*counts)(int32_t from, int32_t to);
};

TEST_P(CommunicatorTest, EveryBlockReachesItsRank) {
  static constexpr CountsCase kCases[] = {
      {"no tokens", [](int32_t, int32_t) -> int64_t { return 0; }},
      {"all tokens to rank 0",
       [](int32_t, int32_t to) -> int64_t { return to == 0 ? kCapacity : 0; }},
      {"one rank alone has tokens",
       [](int32_t from, int32_t) -> int64_t { return from == 0 ? 3 : 0; }},
      {"full buffers", [](int32_t, int32_t) -> int64_t { return kCapacity; }},
      {"uneven", SomeRows},
  };
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    Exchanger exchanger(**comm);
    int64_t round = 0;
    for (const CountsCase& counts : kCases) {
      for (int i = 0; i < 2; ++i) {
        const Status status = exchanger.Exchange(round++, counts.counts);
        if (!status.ok()) return StrCat(counts.name, ": ", MessageOf(status));
      }
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, ManyRoundsInARowKeepTheirContents) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    Exchanger exchanger(**comm);
    for (int64_t round = 0; round < 200; ++round) {
      const auto changing = [round](int32_t from, int32_t to) {
        return SomeRows(from + static_cast<int32_t>(round), to);
      };
      SAY_IF_ERROR(exchanger.Exchange(round, changing));
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, BlocksOfMegabytesTravelWhileTheCallerComputes) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    constexpr int32_t kManyRows = 2000;
    const auto full = [](int32_t, int32_t) -> int64_t { return kManyRows; };
    Exchanger exchanger(**comm, kManyRows);
    for (int64_t round = 0; round < 4; ++round) {
      SAY_IF_ERROR(exchanger.Start(round, full));
      if (seat.rank() == round) absl::SleepFor(absl::Milliseconds(20));
      SAY_IF_ERROR((*comm)->Await(kPatience));
      SAY_IF_ERROR(exchanger.Check(round, full));
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, AllGatherIsInRankOrder) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    for (int64_t round = 0; round < 50; ++round) {
      const size_t block = 1 + round * 7;
      Blocks mine(block);
      Blocks all(block * seat.num_ranks());
      Fill(mine, 1, round, seat.rank(), 0);
      SAY_IF_ERROR((*comm)->AllGather(mine, all, kPatience));
      for (int32_t from = 0; from < seat.num_ranks(); ++from) {
        Fill(mine, 1, round, from, 0);
        if (!std::equal(mine.begin(), mine.end(),
                        all.begin() + static_cast<int64_t>(from * block))) {
          return StrCat("round ", round, ": the block of rank ", from, " is wrong");
        }
      }
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, AnAllGatherThatWasStartedTravelsWhileTheCallerComputes) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    constexpr size_t kBlock = 300'000;
    Blocks mine(kBlock);
    Blocks all(kBlock * seat.num_ranks());
    for (int64_t round = 0; round < 4; ++round) {
      Fill(mine, 1, round, seat.rank(), 0);
      SAY_IF_ERROR((*comm)->StartAllGather(mine, all));
      if (seat.rank() == round) absl::SleepFor(absl::Milliseconds(20));
      SAY_IF_ERROR((*comm)->Await(kPatience));
      for (int32_t from = 0; from < seat.num_ranks(); ++from) {
        Fill(mine, 1, round, from, 0);
        if (!std::equal(mine.begin(), mine.end(),
                        all.begin() + static_cast<int64_t>(from * kBlock))) {
          return StrCat("round ", round, ": the block of rank ", from, " is wrong");
        }
      }
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, MoreRowsThanABlockHoldsAreAnErrorAtTheWriterAndAtTheReader) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    Exchanger exchanger(**comm);
    const Status writer = exchanger.Exchange(
        0, [](int32_t, int32_t to) -> int64_t { return to == 0 ? kCapacity + 1 : 0; });
    if (!absl::IsResourceExhausted(writer)) return StrCat("writer: ", writer.ToString());
    if (MessageOf(writer) != "rows for rank 0 are 9; a block holds at most 8") {
      return MessageOf(writer);
    }
    exchanger.Lie(0, kCapacity + 1);
    SAY_IF_ERROR(exchanger.SendAsItIs());
    if (seat.rank() != 0) return "";
    for (int32_t from = 0; from < seat.num_ranks(); ++from) {
      const Status reader = exchanger.CountFrom(from).status();
      if (!absl::IsDataLoss(reader)) return StrCat("reader: ", reader.ToString());
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, RanksMayComeLate) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    absl::SleepFor(absl::Milliseconds(300) * ((seat.rank() + 1) % seat.num_ranks()));
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    Exchanger exchanger(**comm);
    for (int64_t round = 0; round < 4; ++round) {
      if (seat.rank() == round) absl::SleepFor(absl::Milliseconds(300));
      SAY_IF_ERROR(exchanger.Exchange(round, SomeRows));
    }
    return "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, ARankThatNeverComesToTheRendezvousIsNamed) {
  if (GetParam() == 1) GTEST_SKIP() << "one rank waits for nobody";
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    if (seat.last()) return "";
    const int64_t start_ns = Clock::Real().NowNs();
    const auto comm = seat.Form(7, absl::Milliseconds(500));
    const double seconds = SecondsSince(start_ns);
    if (seconds > kSoonSeconds) return StrCat("took ", seconds, " s");
    return WantEnd(comm.status(), absl::StatusCode::kDeadlineExceeded, seat.num_ranks() - 1, 7);
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, ARankThatNeverComesToACallIsNamedAtTheDeadline) {
  if (GetParam() == 1) GTEST_SKIP() << "one rank waits for nobody";
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(7, kPatience);
    SAY_IF_ERROR(comm.status());
    Exchanger exchanger(**comm);
    SAY_IF_ERROR(exchanger.Exchange(0, SomeRows));
    Status end;
    if (seat.last()) {
      absl::SleepFor(absl::Seconds(1));  // Past the others' deadline.
      end = exchanger.Exchange(1, SomeRows);
    } else {
      const int64_t start_ns = Clock::Real().NowNs();
      end = exchanger.Exchange(1, SomeRows, absl::Milliseconds(300));
      const double seconds = SecondsSince(start_ns);
      if (seconds < 0.25 || seconds > kSoonSeconds) return StrCat("took ", seconds, " s");
    }
    const int32_t named = seat.names_late_rank() ? seat.num_ranks() - 1 : kAnyRank;
    const std::string wrong =
        WantEnd(end, absl::StatusCode::kDeadlineExceeded, named, 7, "Combine 1");
    return wrong.empty() ? WantTheSameFromEveryCall(**comm, end) : wrong;
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, ARankThatVanishesDuringACallIsNamedLongBeforeTheDeadline) {
  if (GetParam() == 1) GTEST_SKIP() << "nobody is left";
  for (const int32_t victim : {0, GetParam() - 1}) {
    const auto said = RunRanks(GetParam(), [victim](RankSeat& seat) -> std::string {
      auto comm = seat.Form(3, kPatience);
      SAY_IF_ERROR(comm.status());
      Exchanger exchanger(**comm);
      Status end;
      double seconds = 0;  // Of the call that failed.
      for (int64_t round = 0; end.ok() && round < 8; ++round) {
        if (seat.rank() == victim && round == 5) {
          SAY_IF_ERROR(exchanger.Start(round, SomeRows));
          seat.Vanish(*std::move(comm));
          return "";
        }
        const int64_t start_ns = Clock::Real().NowNs();
        end = exchanger.Exchange(round, SomeRows);
        seconds = SecondsSince(start_ns);
      }
      if (seconds > kSoonSeconds) return StrCat("took ", seconds, " s");
      const std::string wrong = WantEnd(end, absl::StatusCode::kUnavailable, victim, 3);
      return wrong.empty() ? WantTheSameFromEveryCall(**comm, end) : wrong;
    });
    for (int32_t rank = 0; rank < GetParam(); ++rank) {
      if (rank == victim) continue;
      EXPECT_THAT(said[rank], IsEmpty()) << "rank " << rank;
    }
  }
}

TEST_P(CommunicatorTest, WhatARankAwaitedBeforeItLeftIsCompleteForTheOthers) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    constexpr int32_t kManyRows = 2000;  // More than a socket holds.
    const auto full = [](int32_t, int32_t) -> int64_t { return kManyRows; };
    Exchanger exchanger(**comm, kManyRows);
    SAY_IF_ERROR(exchanger.Start(0, full));
    if (seat.last()) absl::SleepFor(absl::Milliseconds(200));
    SAY_IF_ERROR((*comm)->Await(kPatience));
    return MessageOf(exchanger.Check(0, full));
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, AbortFromAnotherThreadEndsTheCallsOfAllRanks) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(9, kPatience);
    const int32_t aborter = seat.num_ranks() - 1;
    if (!comm.ok()) {  // A rank that is still connecting hears of it as well.
      return WantEnd(comm.status(), absl::StatusCode::kAborted, aborter, 9, "the engine stops");
    }
    Exchanger exchanger(**comm);
    const int64_t start_ns = Clock::Real().NowNs();
    std::thread other([&] {
      absl::SleepFor(absl::Milliseconds(100));
      if (seat.rank() == aborter) (void)(*comm)->Abort(9, "the engine stops");
    });
    if (seat.rank() == 0) absl::SleepFor(absl::Seconds(1));  // The others wait for it.
    const Status end = exchanger.Exchange(0, SomeRows);
    other.join();
    if (SecondsSince(start_ns) > kSoonSeconds) return "woke late";
    const std::string wrong =
        WantEnd(end, absl::StatusCode::kAborted, aborter, 9, "the engine stops");
    return wrong.empty() ? WantTheSameFromEveryCall(**comm, end) : wrong;
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, AnAbortOfAnotherEpochDoesNoHarm) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(9, kPatience);
    SAY_IF_ERROR(comm.status());
    if (!absl::IsFailedPrecondition((*comm)->Abort(8, "late word"))) return "was not refused";
    Exchanger exchanger(**comm);
    return MessageOf(exchanger.Exchange(0, SomeRows));
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, AGroupFormedAnewSeesNothingOfTheOldEpoch) {
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    constexpr int32_t kManyRows = 1000;
    const auto full = [](int32_t, int32_t) -> int64_t { return kManyRows; };
    for (int64_t epoch = 1; epoch <= 4; ++epoch) {
      auto comm = seat.Form(epoch, kPatience);
      SAY_IF_ERROR(comm.status());
      Exchanger exchanger(**comm, kManyRows);
      // The last rank ends the group with blocks of the others on their way.
      Status end = exchanger.Exchange(0, full);
      if (seat.last()) {
        SAY_IF_ERROR(end);
        SAY_IF_ERROR((*comm)->Abort(epoch, "again"));
      }
      if (end.ok()) end = exchanger.Exchange(1, full);
      std::string wrong =
          WantEnd(end, absl::StatusCode::kAborted, seat.num_ranks() - 1, epoch, "again");
      if (!wrong.empty()) return wrong;
    }
    auto comm = seat.Form(5, kPatience);
    SAY_IF_ERROR(comm.status());
    Exchanger exchanger(**comm, kManyRows);
    SAY_IF_ERROR(exchanger.Exchange(0, full));
    if (seat.last() && seat.rank() > 0) {
      const auto late = seat.Form(4, absl::Seconds(2));
      if (!absl::IsFailedPrecondition(late.status())) return late.status().ToString();
    }
    return MessageOf(exchanger.Exchange(1, full));
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

TEST_P(CommunicatorTest, RanksThatDisagreeGetAnErrorAndDoNotCrash) {
  if (GetParam() == 1) GTEST_SKIP() << "one rank agrees with itself";
  const auto said = RunRanks(GetParam(), [](RankSeat& seat) -> std::string {
    auto comm = seat.Form(1, kPatience);
    SAY_IF_ERROR(comm.status());
    Exchanger exchanger(**comm, seat.last() ? kCapacity : kCapacity - 1);
    const Status status = exchanger.Exchange(
        0, [](int32_t, int32_t) -> int64_t { return 1; }, absl::Seconds(1));
    return status.ok() ? "nobody noticed" : "";
  });
  EXPECT_THAT(said, Each(IsEmpty()));
}

INSTANTIATE_TEST_SUITE_P(Ranks, CommunicatorTest, testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace facet::worker
