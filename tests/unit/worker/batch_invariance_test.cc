// A request's tokens and log-probabilities are the same bits alone, among 32 random others, in
// every chunking, with one thread or two, and with pools so small that windows release blocks and
// sequences are preempted: for every CPU tier, in float32 and bfloat16.
#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "kernels/cpu/cpu_backend.h"
#include "tests/support/engine_driver.h"
#include "tests/support/prompt_logits.h"
#include "worker/executor/model_executor.h"

namespace facet::test {
namespace {

using kernels::CpuTier;
using kernels::DType;
using worker::ModelExecutor;

constexpr int32_t kVocab = 512;
constexpr int kOthers = 32;
constexpr int64_t kRoomyBytes = 64 << 20;

struct ModelSetup {
  std::string model;
  DType dtype;
  CpuTier tier;
};

void PrintTo(const ModelSetup& setup, std::ostream* out) { *out << setup.model; }

std::string NameOfModelSetup(const testing::TestParamInfo<ModelSetup>& info) {
  return info.param.model + "_" + kernels::NameOf(info.param.dtype) + "_" +
         kernels::NameOf(info.param.tier);
}

std::vector<ModelSetup> AllSetups() {
  std::vector<ModelSetup> setups;
  for (const char* model : {"e2b", "e4b", "moe", "dense31"}) {
    for (const DType dtype : {DType::kF32, DType::kBf16}) {
      for (const CpuTier tier : {CpuTier::kScalar, CpuTier::kAvx2, CpuTier::kAvx512}) {
        if (kernels::Supports(tier)) setups.push_back({model, dtype, tier});
      }
    }
  }
  return setups;
}

std::unique_ptr<ModelExecutor> MakeExecutor(const ModelSetup& setup,
                                            int threads,
                                            int64_t kv_bytes) {
  StatusOr<std::unique_ptr<ModelExecutor>> executor =
      ModelExecutor::Create({.model_directory = "tests/golden/models/" + setup.model,
                             .dtype = setup.dtype,
                             .kv_bytes = kv_bytes,
                             .running_max = 40,
                             .step_tokens_max = 256},
                            std::make_unique<kernels::CpuBackend>(setup.tier, threads));
  FACET_CHECK(executor.ok()) << executor.status().ToString();
  return *std::move(executor);
}

std::vector<int32_t> RandomIds(std::mt19937& random, int length) {
  std::vector<int32_t> ids = {2};
  while (static_cast<int>(ids.size()) < length) {
    ids.push_back(static_cast<int32_t>(random() % (kVocab - 16)) + 16);
  }
  return ids;
}

// The request that is watched: a prompt longer than the window, sampled with every filter on.
worker::SequenceRequest Watched() {
  std::mt19937 random(7);
  return {.request_id = "watched",
          .prompt_ids = RandomIds(random, 53),
          .sampling = {.temperature = 0.9F,
                       .top_k = 40,
                       .top_p = 0.9F,
                       .min_p = 0.001F,
                       .seed = 11,
                       .frequency_penalty = 0.2F,
                       .num_logprobs = 5},
          .new_tokens_max = 24};
}

worker::EngineOptions Options(int32_t chunk) {
  return {.scheduler = {.running_max = 40,
                        .waiting_max = 40,
                        .step_tokens_max = 256,
                        .chunk_tokens_max = chunk,
                        .context_tokens_max = 512}};
}

void ExpectSame(const Answer& got, const Answer& want, const std::string& how) {
  EXPECT_EQ(got.finish, want.finish) << how;
  EXPECT_EQ(got.tokens, want.tokens) << how;
  ASSERT_EQ(got.logprobs.size(), want.logprobs.size()) << how;
  for (size_t i = 0; i < got.logprobs.size(); ++i) {
    // Bits, not values: == on floats that hold no NaN.
    EXPECT_EQ(got.logprobs[i].logprob, want.logprobs[i].logprob) << how << ", token " << i;
    EXPECT_EQ(got.logprobs[i].top_logprobs, want.logprobs[i].top_logprobs) << how;
  }
}

Answer RunAlone(const ModelSetup& setup, int threads, int32_t chunk) {
  const auto executor = MakeExecutor(setup, threads, kRoomyBytes);
  EngineDriver driver(Options(chunk), *executor);
  driver.Submit(Watched());
  EXPECT_TRUE(driver.RunAll());
  return driver.answer("watched");
}

struct CrowdResult {
  Answer watched;
  int64_t preemptions = 0;
};

CrowdResult RunInCrowd(const ModelSetup& setup,
                       int threads,
                       int32_t chunk,
                       int64_t kv_bytes,
                       uint32_t others_output_max = 30) {
  const auto executor = MakeExecutor(setup, threads, kv_bytes);
  EngineDriver driver(Options(chunk), *executor);
  std::mt19937 random(chunk + threads);
  for (int i = 0; i < kOthers; ++i) {
    if (i == kOthers / 2) driver.Submit(Watched());
    driver.Submit({.request_id = StrCat("other", i),
                   .prompt_ids = RandomIds(random, 1 + static_cast<int>(random() % 90)),
                   .sampling = {.temperature = 1, .seed = random()},
                   .new_tokens_max = 1 + static_cast<int32_t>(random() % others_output_max)});
    for (uint32_t step = random() % 3; step > 0; --step) driver.engine().Step();
  }
  EXPECT_TRUE(driver.RunAll());
  for (int i = 0; i < kOthers; ++i) {
    const Answer& other = driver.answer(StrCat("other", i));
    EXPECT_TRUE(other.refused.ok()) << other.refused;
    EXPECT_EQ(other.finish, worker::FinishReason::kLength);
  }
  return {driver.answer("watched"), driver.engine().Stats().preemptions};
}

class BatchInvarianceTest : public testing::TestWithParam<ModelSetup> {};

TEST_P(BatchInvarianceTest, ARequestGetsTheSameBitsHoweverItIsRun) {
  const ModelSetup& setup = GetParam();
  const Answer want = RunAlone(setup, 1, 256);
  ASSERT_EQ(want.tokens.size(), 24U);
  for (const int32_t chunk : {1, 7, 16, 64}) {
    ExpectSame(RunAlone(setup, 1, chunk), want, StrCat("alone, chunk ", chunk));
  }
  ExpectSame(RunAlone(setup, 2, 256), want, "alone, two threads");
  ExpectSame(RunInCrowd(setup, 1, 256, kRoomyBytes).watched, want, "in a crowd");
  ExpectSame(RunInCrowd(setup, 2, 16, kRoomyBytes).watched, want, "in a crowd, two threads");
}

TEST_P(BatchInvarianceTest, PreemptionChangesNoBit) {
  const ModelSetup& setup = GetParam();
  const Answer want = RunAlone(setup, 1, 256);
  const int64_t slab_bytes = MakeExecutor(setup, 1, kRoomyBytes)->info().kv.slab_bytes;
  // How small a pool must be for 33 sequences to fight over it depends on the model's slabs.
  CrowdResult tight;
  for (int64_t slabs = 12; slabs >= 3 && tight.preemptions == 0; slabs -= 3) {
    const auto executor = MakeExecutor(setup, 1, slab_bytes * slabs);
    if (worker::Scheduler(Options(64).scheduler, executor->info().kv).context_tokens_max() < 191) {
      break;  // The longest of the others would no longer fit alone.
    }
    tight = RunInCrowd(setup, 1, 64, slab_bytes * slabs, /*others_output_max=*/100);
  }
  EXPECT_GT(tight.preemptions, 0);
  ExpectSame(tight.watched, want, "preempted");
}

TEST_P(BatchInvarianceTest, LogitsOfAPromptAreTheSameBitsInEveryChunkingAndThreading) {
  std::mt19937 random(3);
  const std::vector<int32_t> ids = RandomIds(random, 120);
  std::vector<float> want;
  for (const int threads : {1, 2}) {
    for (const int32_t chunk : {256, 1, 7, 16, 64}) {
      const auto executor = MakeExecutor(GetParam(), threads, kRoomyBytes);
      const std::vector<float> got = PromptLogits(*executor, ids, chunk);
      if (want.empty()) want = got;
      EXPECT_EQ(got, want) << "chunk " << chunk << ", threads " << threads;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Setups,
                         BatchInvarianceTest,
                         testing::ValuesIn(AllSetups()),
                         NameOfModelSetup);

}  // namespace
}  // namespace facet::test
