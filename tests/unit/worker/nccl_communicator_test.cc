// NCCL's communicator where the library or the group is not as it should be, over a stand-in for
// the library; what ranks see of each other is in tests/conformance/communicator_test.cc.
#include "worker/comm/nccl_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/reserved_port.h"
#include "tests/support/fake_nccl/fake_nccl.h"
#include "worker/comm/nccl_comm.h"
#include "worker/comm/nccl_library.h"

namespace facet::worker {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr absl::Duration kPatience = absl::Seconds(15);
constexpr int64_t kBlock = 64;

class NcclCommunicatorTest : public testing::Test {
 protected:
  ~NcclCommunicatorTest() override {  // A library and its switches live as long as the process.
    switches_.version = 22809;
    switches_.init_stays_in_progress = false;
    switches_.failing_transfer = -1;
    switches_.stuck_ranks[0] = -1;
  }

  StatusOr<std::unique_ptr<Communicator>> Form(int32_t rank,
                                               int32_t num_ranks,
                                               const FakeStream& stream,
                                               NcclAwait await = NcclAwait::kHost,
                                               const std::string& library = FAKE_NCCL,
                                               absl::Duration timeout = kPatience) const {
    return FormNccl({.control = {.rank = rank,
                                 .num_ranks = num_ranks,
                                 .epoch_min = 6,
                                 .rendezvous_address = StrCat("127.0.0.1:", port_.port()),
                                 .group_key = "key of the test"},
                     .library = library,
                     .stream = &stream,
                     .await = await,
                     .init_timeout = timeout},
                    timeout);
  }

  // What each rank's body says, in a thread of its own.
  static std::vector<std::string> RunRanks(int32_t num_ranks,
                                           const std::function<Status(int32_t rank)>& body) {
    std::vector<std::string> said(num_ranks);
    std::vector<std::thread> threads;
    threads.reserve(num_ranks);
    for (int32_t rank = 0; rank < num_ranks; ++rank) {
      threads.emplace_back([&, rank] { said[rank] = body(rank).ToString(); });
    }
    for (std::thread& thread : threads) thread.join();
    return said;
  }

  FakeNcclSwitches& switches_ = SwitchesOf(FAKE_NCCL);
  const ReservedPort port_ = ReservedPort::Reserve().value();
};

// A rank's blocks: the one for rank r holds 10 rank + r.
struct RankBuffers {
  RankBuffers(int32_t rank, int32_t num_ranks) : send(kBlock * num_ranks), recv(send.size()) {
    for (int32_t to = 0; to < num_ranks; ++to) send[to * kBlock] = std::byte(10 * rank + to);
  }

  std::vector<std::byte> send;
  std::vector<std::byte> recv;
};

TEST_F(NcclCommunicatorTest, ALibraryThatIsNotThereIsNamed) {
  const Status status = NcclLibrary::Open("/nowhere/libnccl.so.2").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(MessageOf(status), HasSubstr("/nowhere/libnccl.so.2"));
}

TEST_F(NcclCommunicatorTest, AnOldLibraryIsRefusedWithItsVersion) {
  for (const auto& [version, name] : {std::pair(22705, "2.27.5"), std::pair(2708, "2.7.8")}) {
    switches_.version = version;
    const Status status = NcclLibrary::Open(FAKE_NCCL).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(MessageOf(status), AllOf(HasSubstr(FAKE_NCCL), HasSubstr(StrCat("NCCL ", name)),
                                         HasSubstr("at least 2.28.0")));
  }
}

TEST_F(NcclCommunicatorTest, ALibraryWithoutAFunctionIsRefusedWithItsName) {
  const Status status = NcclLibrary::Open(FAKE_NCCL_LACKING).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(MessageOf(status), HasSubstr("lacks ncclAllGather"));
}

TEST_F(NcclCommunicatorTest, TheRealLibraryHasWhatIsCalled) {
  const StatusOr<NcclLibrary> library = NcclLibrary::Open("");
  if (absl::IsNotFound(library.status())) GTEST_SKIP() << MessageOf(library.status());
  EXPECT_TRUE(library.ok()) << MessageOf(library.status());
}

TEST_F(NcclCommunicatorTest, RanksWithDifferentLibrariesAreNamed) {
  SwitchesOf(FAKE_NCCL_2_28_3).version = 22803;
  const auto said = RunRanks(2, [&](int32_t rank) {
    const FakeStream stream;
    return Form(rank, 2, stream, NcclAwait::kHost, rank == 0 ? FAKE_NCCL : FAKE_NCCL_2_28_3)
        .status();
  });
  EXPECT_THAT(said, Each(AllOf(HasSubstr("ABORTED"), HasSubstr("epoch 6"), HasSubstr("2.28.3"),
                               HasSubstr("2.28.9"))));
  EXPECT_EQ(said[0], said[1]);
}

TEST_F(NcclCommunicatorTest, AGroupThatNcclDoesNotFormEndsAtTheDeadline) {
  switches_.init_stays_in_progress = true;
  const int num_aborted = switches_.num_aborted;
  const auto said = RunRanks(2, [&](int32_t rank) {
    const FakeStream stream;
    return Form(rank, 2, stream, NcclAwait::kHost, FAKE_NCCL, absl::Milliseconds(400)).status();
  });
  EXPECT_THAT(said, Each(AllOf(HasSubstr("DEADLINE_EXCEEDED"), HasSubstr("epoch 6 ended by rank"),
                               HasSubstr("NCCL's group is not complete"))));
  EXPECT_EQ(switches_.num_aborted, num_aborted + 2);
}

TEST_F(NcclCommunicatorTest, AnAsynchronousErrorEndsTheGroupForAllRanks) {
  switches_.failing_rank = 1;
  switches_.failing_transfer = 2;
  const auto said = RunRanks(3, [&](int32_t rank) -> Status {
    const FakeStream stream;
    FACET_ASSIGN_OR_RETURN(const auto comm, Form(rank, 3, stream));
    RankBuffers buffers(rank, 3);
    for (int i = 0; i < 5; ++i) {
      FACET_RETURN_IF_ERROR(comm->Dispatch(buffers.send, buffers.recv));
      FACET_RETURN_IF_ERROR(comm->Await(kPatience));
    }
    return absl::OkStatus();
  });
  EXPECT_THAT(said, Each(AllOf(HasSubstr("UNAVAILABLE"), HasSubstr("epoch 6 ended by rank 1"),
                               HasSubstr("Dispatch 2"), HasSubstr("remote process exited"),
                               HasSubstr("said by the fake"))));
}

TEST_F(NcclCommunicatorTest, InStreamOrderAwaitDoesNotWaitForTheOthers) {
  const auto said = RunRanks(2, [&](int32_t rank) -> Status {
    const FakeStream stream;
    FACET_ASSIGN_OR_RETURN(const auto comm, Form(rank, 2, stream, NcclAwait::kStreamOrder));
    RankBuffers buffers(rank, 2);
    if (rank == 0) {
      FACET_RETURN_IF_ERROR(comm->Dispatch(buffers.send, buffers.recv));
      FACET_RETURN_IF_ERROR(comm->Await(kPatience));
      if (stream.Idle()) return Internal("waited for rank 1");
    }
    // Of both ranks, so that rank 1 comes after rank 0's Await.
    std::vector<std::byte> mine(kBlock);
    std::vector<std::byte> all(2 * kBlock);
    if (rank == 1) {
      absl::SleepFor(absl::Milliseconds(300));
      FACET_RETURN_IF_ERROR(comm->Dispatch(buffers.send, buffers.recv));
      FACET_RETURN_IF_ERROR(comm->Await(kPatience));
    }
    FACET_RETURN_IF_ERROR(comm->AllGather(mine, all, kPatience));
    FACET_RETURN_IF_ERROR(comm->Synchronize(kPatience));
    const bool right =
        buffers.recv[0] == std::byte(rank) && buffers.recv[kBlock] == std::byte(10 + rank);
    return right ? absl::OkStatus() : Internal("blocks are wrong");
  });
  EXPECT_THAT(said, Each("OK"));
}

TEST_F(NcclCommunicatorTest, ATransferThatNeverCompletesEndsTheGroupAtTheDeadline) {
  switches_.stuck_ranks[1] = 2;
  switches_.stuck_ranks[0] = 0;
  for (const NcclAwait await : {NcclAwait::kHost, NcclAwait::kStreamOrder}) {
    const auto said = RunRanks(3, [&](int32_t rank) -> Status {
      const FakeStream stream;
      FACET_ASSIGN_OR_RETURN(const auto comm, Form(rank, 3, stream, await));
      RankBuffers buffers(rank, 3);
      FACET_RETURN_IF_ERROR(comm->Dispatch(buffers.send, buffers.recv));
      // Rank 1 is done with it and waits for the others in the next.
      Status status = comm->Await(rank == 1 ? kPatience : absl::Milliseconds(300));
      if (status.ok() && rank == 1) {
        FACET_RETURN_IF_ERROR(comm->Combine(buffers.send, buffers.recv));
        status = comm->Await(kPatience);
        if (status.ok()) status = comm->Synchronize(kPatience);
      } else if (status.ok()) {
        status = comm->Synchronize(absl::Milliseconds(300));
      }
      return stream.Idle() ? status : Internal("its transfer is still on the stream");
    });
    EXPECT_THAT(said, Each(AllOf(HasSubstr("DEADLINE_EXCEEDED"), HasSubstr("epoch 6 ended by rank"),
                                 HasSubstr("is not complete at its deadline"))));
    EXPECT_EQ(said[0], said[1]);
    EXPECT_EQ(said[0], said[2]);
  }
}

TEST_F(NcclCommunicatorTest, AGroupThatIsWholeIsLeftAndAFaultyOneIsAborted) {
  for (const bool whole : {true, false}) {
    const int num_destroyed = switches_.num_destroyed;
    const int num_aborted = switches_.num_aborted;
    const auto said = RunRanks(2, [&](int32_t rank) -> Status {
      const FakeStream stream;
      FACET_ASSIGN_OR_RETURN(const auto comm, Form(rank, 2, stream));
      RankBuffers buffers(rank, 2);
      FACET_RETURN_IF_ERROR(comm->Dispatch(buffers.send, buffers.recv));
      FACET_RETURN_IF_ERROR(comm->Await(kPatience));
      if (!whole) {
        FACET_RETURN_IF_ERROR(comm->Dispatch(buffers.send, buffers.recv));
        (void)comm->Abort(6, "enough");
        (void)comm->Await(kPatience);
      }
      return absl::OkStatus();
    });
    EXPECT_EQ(switches_.num_destroyed - num_destroyed, whole ? 2 : 0);
    EXPECT_EQ(switches_.num_aborted - num_aborted, whole ? 0 : 2);
  }
}

// The survivors' communicator; the engine forms anew instead.
TEST_F(NcclCommunicatorTest, SurvivorsShrinkToACommunicatorOfTheirOwn) {
  const StatusOr<NcclLibrary> library = NcclLibrary::Open(FAKE_NCCL);
  ASSERT_TRUE(library.ok());
  const auto id = NcclComm::UniqueId(*library);
  ASSERT_TRUE(id.ok());
  const auto said = RunRanks(3, [&](int32_t rank) -> Status {
    FACET_ASSIGN_OR_RETURN(const auto comm, NcclComm::Begin(*library, *id, rank, 3));
    while (true) {
      FACET_ASSIGN_OR_RETURN(const NcclComm::State state, comm->Progress());
      if (state == NcclComm::State::kDone) break;
      absl::SleepFor(absl::Milliseconds(1));
    }
    if (rank == 1) return absl::OkStatus();  // Leaves.
    const FakeStream stream;
    RankBuffers buffers(rank, 3);
    FACET_RETURN_IF_ERROR(
        comm->AllToAll(buffers.send.data(), buffers.recv.data(), kBlock, stream.handle()));
    comm->Stop();
    if (!stream.Idle()) return Internal("a stopped transfer is still on the stream");
    constexpr std::array<int32_t, 1> kDead = {1};
    FACET_ASSIGN_OR_RETURN(const auto survivors, comm->Shrink(kDead, kPatience));
    const int32_t new_rank = rank / 2;
    RankBuffers fresh(new_rank, 2);
    FACET_RETURN_IF_ERROR(
        survivors->AllToAll(fresh.send.data(), fresh.recv.data(), kBlock, stream.handle()));
    while (!stream.Idle()) absl::SleepFor(absl::Milliseconds(1));
    const bool right =
        fresh.recv[0] == std::byte(new_rank) && fresh.recv[kBlock] == std::byte(10 + new_rank);
    return right ? absl::OkStatus() : Internal("blocks are wrong");
  });
  EXPECT_THAT(said, Each("OK"));
}

TEST_F(NcclCommunicatorTest, AnAbortedCommunicatorSaysWhyItCannotShrink) {
  const StatusOr<NcclLibrary> library = NcclLibrary::Open(FAKE_NCCL_2_28_3);
  ASSERT_TRUE(library.ok());
  const auto id = NcclComm::UniqueId(*library);
  const auto comm = NcclComm::Begin(*library, *id, 0, 1);
  ASSERT_TRUE(comm.ok() && (*comm)->Progress().ok());
  (*comm)->Stop();
  constexpr std::array<int32_t, 1> kDead = {0};
  const Status status = (*comm)->Shrink(kDead, kPatience).status();
  EXPECT_THAT(MessageOf(status), HasSubstr("no ncclCommRevoke"));
}

}  // namespace
}  // namespace facet::worker
