// A prompt's tokens but the last end where the last keys and values are stored, and nobody can tell
// from the bits. The full pass is that which wants logits of every token; it is held against
// transformers in tests/golden.
#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "kernels/cpu/cpu_backend.h"
#include "tests/support/counting_backend.h"
#include "worker/engine/prompt_logits.h"
#include "worker/executor/model_executor.h"

namespace facet::test {
namespace {

using kernels::CpuBackend;
using kernels::CpuTier;
using kernels::DType;
using worker::ModelExecutor;

constexpr int32_t kPromptTokens = 61;  // Longer than the windows.

struct StartedModel {
  std::unique_ptr<ModelExecutor> executor;
  CountingBackend* backend = nullptr;  // The executor's.
};

StartedModel Start(const std::string& model, DType dtype, CpuTier tier) {
  auto backend = std::make_unique<CountingBackend>(std::make_unique<CpuBackend>(tier, 1));
  StartedModel run{.backend = backend.get()};
  StatusOr<std::unique_ptr<ModelExecutor>> executor =
      ModelExecutor::Create({.model_directory = "tests/golden/models/" + model,
                             .dtype = dtype,
                             .kv_bytes = 64 << 20,
                             .running_max = 1,
                             .step_tokens_max = 64},
                            std::move(backend));
  FACET_CHECK(executor.ok()) << executor.status().ToString();
  run.executor = *std::move(executor);
  return run;
}

std::vector<int32_t> RandomIds(int32_t vocab) {
  std::mt19937 random(5);
  std::vector<int32_t> ids(kPromptTokens);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
  return ids;
}

std::vector<float> LastOfFullPass(const std::string& model, DType dtype, CpuTier tier) {
  const StartedModel run = Start(model, dtype, tier);
  const int32_t vocab = run.executor->info().vocab;
  std::vector<float> last;
  const Status status = worker::RunPromptLogits(*run.executor, RandomIds(vocab), 64,
                                                [&](int64_t, std::span<const float> logits) {
                                                  last.assign(logits.end() - vocab, logits.end());
                                                });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(run.backend->layer_tokens(), kPromptTokens * run.executor->config().num_layers);
  return last;
}

class PrefillStopTest : public testing::TestWithParam<const char*> {};

TEST_P(PrefillStopTest, LastLogitsAreThoseOfTheFullPass) {
  const std::string model = GetParam();
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    for (const CpuTier tier : {CpuTier::kScalar, kernels::BestCpuTier()}) {
      const std::vector<float> want = LastOfFullPass(model, dtype, tier);
      for (const int32_t chunk : {64, 16, 7, 1}) {
        const StartedModel run = Start(model, dtype, tier);
        const auto got =
            worker::RunLastLogits(*run.executor, RandomIds(run.executor->info().vocab), chunk);
        ASSERT_TRUE(got.ok()) << got.status();
        EXPECT_EQ(*got, want) << kernels::NameOf(dtype) << ", chunk " << chunk;
      }
    }
  }
}

TEST_P(PrefillStopTest, OnlyTheLastTokenSeesTheLayersThatShare) {
  const StartedModel run = Start(GetParam(), DType::kBf16, kernels::BestCpuTier());
  const worker::Gemma4Config& config = run.executor->config();
  for (const int32_t chunk : {64, 7}) {
    const int64_t before = run.backend->layer_tokens();
    ASSERT_TRUE(worker::RunLastLogits(*run.executor, RandomIds(config.vocab), chunk).ok());
    const int32_t end = config.kv_layers_end();
    ASSERT_LT(end, config.num_layers);
    EXPECT_EQ(run.backend->layer_tokens() - before, kPromptTokens * end + config.num_layers - end);
  }
}

INSTANTIATE_TEST_SUITE_P(Models,
                         PrefillStopTest,
                         testing::Values("e2b", "e4b"),
                         [](const auto& model) { return std::string(model.param); });

}  // namespace
}  // namespace facet::test
