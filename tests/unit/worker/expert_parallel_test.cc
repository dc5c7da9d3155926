// Ranks that share experts compute what one process computes, bit for bit, however many they are
// and whoever has tokens; when one of them fails the others say so and go on in the next group.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "tests/support/expert_ranks.h"

namespace facet::test {
namespace {

using kernels::DType;
using kernels::MoeDispatch;
using testing::HasSubstr;
using worker::ExpertExchange;
using worker::LocalRendezvous;

RankSetup CpuSetup(DType dtype, std::optional<MoeDispatch> form = std::nullopt) {
  return {.dtype = dtype,
          .make_backend =
              [] { return std::make_unique<kernels::CpuBackend>(kernels::BestCpuTier(), 1); },
          .form = form};
}

class ExpertParallelTest : public testing::TestWithParam<DType> {};

TEST_P(ExpertParallelTest, LogitsAreThoseOfOneProcessBitForBit) {
  const std::vector<FedSequence> want = FeedOverRanks(CpuSetup(GetParam()), 1);
  for (const int32_t num_ranks : {2, 4, 8}) {
    for (const std::optional<MoeDispatch> form :
         {std::optional(MoeDispatch::kAllToAll), std::optional(MoeDispatch::kAllGather),
          std::optional<MoeDispatch>()}) {
      SCOPED_TRACE(StrCat(num_ranks, " ranks, form ", form ? static_cast<int>(*form) : -1));
      ExpectSameLogits(FeedOverRanks(CpuSetup(GetParam(), form), num_ranks), want);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes,
                         ExpertParallelTest,
                         testing::Values(DType::kF32, DType::kBf16),
                         [](const auto& dtype) { return kernels::NameOf(dtype.param); });

// The last rank leaves before a step: the others' steps fail, with its name, and all of them do
// that step again in the next group.
TEST(ExpertParallelFaultTest, AStepThatFailedIsDoneAgainInTheNextGroup) {
  constexpr int32_t kRanks = 4;
  constexpr size_t kFailing = 2;  // Step.
  const RankSetup setup = CpuSetup(DType::kBf16);
  const std::vector<FedSequence> want = FeedOverRanks(setup, 1);
  std::vector<FedSequence> sequences = EightSequences();
  const std::vector<int64_t> tokens_max = PlanTokensMax(sequences, kRanks);
  LocalRendezvous rendezvous(kRanks);
  RunExpertRanks(kRanks, [&](int32_t rank) -> Status {
    ExpertRank self(setup, {rank, kRanks});
    FACET_RETURN_IF_ERROR(self.SetCommunicator(rendezvous.Form(rank, 1, kRankPatience)));
    const std::vector<FedSequence*> mine = SequencesOf(rank, kRanks, sequences);
    for (size_t step = 0; step < tokens_max.size(); ++step) {
      if (step == kFailing) {
        Status end;
        if (rank == kRanks - 1) {
          self.Leave();
        } else {
          end = self.Step(mine, kFedChunks[step], tokens_max[step]);
          EXPECT_TRUE(absl::IsUnavailable(end)) << end;
          EXPECT_THAT(MessageOf(end), HasSubstr("epoch 1 ended by rank 3"));
        }
        FACET_RETURN_IF_ERROR(self.SetCommunicator(rendezvous.Form(rank, 2, kRankPatience)));
      }
      FACET_RETURN_IF_ERROR(self.Step(mine, kFedChunks[step], tokens_max[step]));
    }
    return absl::OkStatus();
  });
  ExpectSameLogits(sequences, want);
}

TEST(ExpertParallelFaultTest, AStepNeedsAGroupAndRoom) {
  const RankSetup setup = CpuSetup(DType::kBf16);
  std::vector<FedSequence> sequences = EightSequences();
  LocalRendezvous rendezvous(2);
  RunExpertRanks(2, [&](int32_t rank) -> Status {
    ExpertRank self(setup, {rank, 2});
    const Status early = self.Step({}, 1, 1);
    EXPECT_TRUE(absl::IsFailedPrecondition(early)) << early;
    FACET_RETURN_IF_ERROR(self.SetCommunicator(rendezvous.Form(rank, 1, kRankPatience)));
    const Status large = self.Step({}, 1, ExpertRank::kTokensMax + 1);
    EXPECT_TRUE(absl::IsResourceExhausted(large)) << large;
    EXPECT_THAT(MessageOf(large), HasSubstr("129 tokens in this step"));
    EXPECT_THAT(MessageOf(large), HasSubstr("room for 128"));
    // More tokens than the ranks agreed on.
    FedSequence* mine = &sequences[rank == 0 ? 0 : 2];
    const Status more = self.Step({mine}, 3, 2);
    EXPECT_TRUE(absl::IsInvalidArgument(more)) << more;
    return self.Step({mine}, 3, 3);  // None of it did harm.
  });
}

TEST(ExpertParallelFaultTest, ACountThatNoBlockHoldsIsDataLossAndEndsTheGroup) {
  const RankSetup setup = CpuSetup(DType::kBf16, MoeDispatch::kAllToAll);
  const worker::Gemma4Config config = *worker::LoadGemma4Config(setup.model);
  std::vector<FedSequence> sequences = EightSequences();
  LocalRendezvous rendezvous(2);
  RunExpertRanks(2, [&](int32_t rank) -> Status {
    auto communicator = rendezvous.Form(rank, 1, kRankPatience);
    FACET_RETURN_IF_ERROR(communicator.status());
    if (rank == 0) {
      ExpertRank self(setup, {rank, 2});
      FACET_RETURN_IF_ERROR(self.SetCommunicator(std::move(communicator)));
      const Status status = self.Step({sequences.data()}, 3, 3);
      EXPECT_TRUE(absl::IsDataLoss(status)) << status;
      EXPECT_EQ(MessageOf(status), "rows from rank 1 are said to be 4; a block holds at most 3");
      return absl::OkStatus();
    }
    const int64_t block_bytes =
        kernels::MoeRowLayout(setup.dtype, config.hidden, config.top_k_experts)
            .Blocks(3)
            .block_bytes();
    std::vector<std::byte> send(2 * block_bytes);
    std::vector<std::byte> recv(2 * block_bytes);
    const int32_t count = 4;
    std::memcpy(send.data(), &count, sizeof count);
    FACET_RETURN_IF_ERROR((*communicator)->Dispatch(send, recv));
    FACET_RETURN_IF_ERROR((*communicator)->Await(kRankPatience));
    // Hears of it where it would wait for rank 0.
    Status next = (*communicator)->Combine(send, recv);
    if (next.ok()) next = (*communicator)->Await(kRankPatience);
    EXPECT_TRUE(absl::IsAborted(next)) << next;
    return absl::OkStatus();
  });
}

TEST(ExpertTokensTest, CountsAreOfThisRanksTokensOverAllLayers) {
  const RankSetup setup = CpuSetup(DType::kBf16);
  const worker::Gemma4Config config = *worker::LoadGemma4Config(setup.model);
  std::vector<FedSequence> sequences = EightSequences();
  LocalRendezvous rendezvous(2);
  RunExpertRanks(2, [&](int32_t rank) -> Status {
    ExpertRank self(setup, {rank, 2});
    FACET_RETURN_IF_ERROR(self.SetCommunicator(rendezvous.Form(rank, 1, kRankPatience)));
    const int32_t tokens = rank == 0 ? 5 : 0;
    for (int step = 1; step <= 2; ++step) {
      FACET_RETURN_IF_ERROR(
          self.Step(rank == 0 ? std::vector{sequences.data()} : std::vector<FedSequence*>(), 5, 5));
      const std::vector<int64_t> counts = self.exchange().ExpertTokens();
      EXPECT_EQ(std::ssize(counts), config.num_experts);
      int64_t sum = 0;
      for (const int64_t count : counts) sum += count;
      EXPECT_EQ(sum, int64_t{step} * tokens * config.top_k_experts * config.num_layers);
    }
    return absl::OkStatus();
  });
}

}  // namespace
}  // namespace facet::test
