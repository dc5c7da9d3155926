// Steps on a device, run by the emulator: the next one is enqueued while one runs, tokens go from
// step to step in device memory, and steps that come again are replayed. None of it changes a
// token.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>

#include "kernels/cuda/cuda_backend.h"
#include "tests/support/cuda_emulator/runtime.h"
#include "tests/support/engine_driver.h"
#include "worker/executor/model_executor.h"

namespace facet::test {
namespace {

using kernels::CudaBackend;
using worker::ModelExecutor;

constexpr int32_t kVocab = 512;

struct Machine {
  explicit Machine(const std::string& model, bool record_steps = true) {
    auto backend = std::make_unique<CudaBackend>(kernels::CudaOptions{
        .record_steps = record_steps, .compare_replay = cuda_emulator::FirstDifference});
    cuda = backend.get();
    StatusOr<std::unique_ptr<ModelExecutor>> made =
        ModelExecutor::Create({.model_directory = "tests/golden/models/" + model,
                               .dtype = kernels::DType::kBf16,
                               .kv_bytes = 64 << 20,
                               .running_max = 8,
                               .step_tokens_max = 256},
                              std::move(backend));
    FACET_CHECK(made.ok()) << made.status().ToString();
    executor = *std::move(made);
  }

  const CudaBackend* cuda = nullptr;
  std::unique_ptr<ModelExecutor> executor;
};

worker::EngineOptions Options() {
  return {.scheduler = {.running_max = 8,
                        .waiting_max = 40,
                        .step_tokens_max = 256,
                        .chunk_tokens_max = 256,
                        .context_tokens_max = 512}};
}

// Requests of all kinds: drawn on the device, drawn on the host (log-probabilities, top_p over
// everything), with counts (penalties), greedy. One prompt ends just before a split of 256 keys.
std::vector<worker::SequenceRequest> Requests() {
  std::mt19937 random(5);
  const std::vector<worker::SamplingParams> sampling = {
      {.temperature = 0},
      {.temperature = 1, .top_k = 20, .seed = 3},
      {.temperature = 1.5, .seed = 4},
      {.temperature = 1, .top_p = 0.9F, .seed = 5},
      {.temperature = 0, .frequency_penalty = 1.5F},
      {.temperature = 1, .top_k = 30, .top_p = 0.8F, .seed = 6, .num_logprobs = 3},
      {.temperature = 0.7F, .min_p = 0.01F, .seed = 7, .repetition_penalty = 1.4F},
      {.temperature = 0, .logit_bias = {{9, 1.0F}, {11, 1.5F}}},
  };
  const std::vector<int> prompt_tokens = {250, 3, 20, 17, 30, 1, 33, 25};
  std::vector<worker::SequenceRequest> requests;
  for (size_t i = 0; i < sampling.size(); ++i) {
    std::vector<int32_t> ids = {2};
    while (std::ssize(ids) < prompt_tokens[i]) {
      ids.push_back(static_cast<int32_t>(random() % (kVocab - 16)) + 16);
    }
    requests.push_back({.request_id = StrCat(i),
                        .prompt_ids = ids,
                        .sampling = sampling[i],
                        .new_tokens_max = 8 + static_cast<int32_t>(random() % 5)});
  }
  return requests;
}

using Tokens = std::vector<std::vector<int32_t>>;

// All requests, a few steps apart.
Tokens RunTogether(ModelExecutor& executor) {
  std::mt19937 random(1);
  EngineDriver driver(Options(), executor);
  const std::vector<worker::SequenceRequest> requests = Requests();
  for (const worker::SequenceRequest& request : requests) {
    driver.Submit(request);
    for (uint32_t step = random() % 4; step > 0; --step) driver.engine().Step();
  }
  EXPECT_TRUE(driver.RunAll());
  Tokens tokens;
  for (const worker::SequenceRequest& request : requests) {
    tokens.push_back(driver.answer(request.request_id).tokens);
    EXPECT_EQ(std::ssize(tokens.back()), request.new_tokens_max);
  }
  return tokens;
}

std::vector<int32_t> RunAlone(ModelExecutor& executor, const worker::SequenceRequest& request) {
  EngineDriver driver(Options(), executor);
  driver.Submit(request);
  EXPECT_TRUE(driver.RunAll());
  return driver.answer(request.request_id).tokens;
}

class CudaStepTest : public testing::TestWithParam<const char*> {};

TEST_P(CudaStepTest, ReplaysAndNeighboursChangeNoToken) {
  Machine recording(GetParam());
  const Tokens together = RunTogether(*recording.executor);
  for (const size_t i : {0, 2, 3, 4}) {
    EXPECT_EQ(RunAlone(*recording.executor, Requests()[i]), together[i]) << "request " << i;
  }
  EXPECT_EQ(RunTogether(*recording.executor), together) << "when steps are replayed";
  EXPECT_GE(recording.cuda->num_replays(), 15);

  Machine launching(GetParam(), /*record_steps=*/false);
  EXPECT_EQ(RunTogether(*launching.executor), together);
  EXPECT_EQ(launching.cuda->num_replays(), 0);
}

INSTANTIATE_TEST_SUITE_P(Models, CudaStepTest, testing::Values("e4b", "moe"));

TEST(CudaMemoryTest, AModelThatDoesNotFitIsRefusedWithItsSize) {
  const auto executor =
      ModelExecutor::Create({.model_directory = "tests/golden/models/e4b",
                             .dtype = kernels::DType::kBf16,
                             .kv_bytes = int64_t{9} << 30,
                             .running_max = 8,
                             .step_tokens_max = 256},
                            std::make_unique<CudaBackend>(kernels::CudaOptions()));
  ASSERT_EQ(executor.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(
      executor.status().ToString(),
      testing::ContainsRegex("needs [0-9]+ bytes of cuda/sm90 memory: .* 9663676416 for the "
                             "KV cache, .*; 8589934592 are free"));
}

// The emulator runs a stream's work on the thread that waits for it, so whose work it was tells who
// waited.
cuda_emulator::WorkDone WorkOfTenSteps(ModelExecutor& executor, worker::SamplingParams sampling) {
  EngineDriver driver(Options(), executor);
  driver.Submit({.request_id = "one",
                 .prompt_ids = {2, 30, 31},
                 .sampling = std::move(sampling),
                 .new_tokens_max = 24});
  for (int step = 0; step < 10; ++step) driver.engine().Step();
  const cuda_emulator::WorkDone before = cuda_emulator::CountWorkDone();
  for (int step = 0; step < 10; ++step) driver.engine().Step();
  const cuda_emulator::WorkDone after = cuda_emulator::CountWorkDone();
  EXPECT_TRUE(driver.RunAll());
  return {.all = after.all - before.all,
          .by_this_thread = after.by_this_thread - before.by_this_thread};
}

TEST(CudaStepThreadsTest, TheDeviceThreadWaitsForNoStepUnlessTheHostMustSeeIt) {
  Machine machine("e4b");
  const cuda_emulator::WorkDone greedy = WorkOfTenSteps(*machine.executor, {.temperature = 0});
  EXPECT_GT(greedy.all, 100);
  EXPECT_EQ(greedy.by_this_thread, greedy.all);
  const cuda_emulator::WorkDone counted =
      WorkOfTenSteps(*machine.executor, {.temperature = 0, .presence_penalty = 1});
  EXPECT_LT(counted.by_this_thread, counted.all / 2);
}

}  // namespace
}  // namespace facet::test
