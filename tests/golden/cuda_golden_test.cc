// The CUDA backend end to end, on the emulator: cut models with every kind of layer through the
// same executor and engine as serving, held against transformers and against the CPU backend.
//
// Tolerances. bfloat16 on a GPU rounds where the CPU peers round, but its sums run in another order
// and probabilities are rounded to bf16 before they meet the values: logits are held to
// transformers' own bfloat16 error as the CPU's are (golden_logits_test.cc, 1.2 times), with 1.4
// for the largest, a maximum of noise (1.34 seen, in flat, whose prompt is the shortest). Between
// runs of one backend there is no tolerance: bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "kernels/open_backend.h"
#include "tests/golden/golden_files.h"
#include "tests/support/engine_driver.h"
#include "tests/support/prompt_logits.h"
#include "worker/engine/prompt_logits.h"
#include "worker/executor/model_executor.h"

namespace facet::test {
namespace {

using kernels::DType;
using worker::ModelExecutor;

std::unique_ptr<ModelExecutor> MakeExecutor(const std::string& directory,
                                            const std::string& device) {
  kernels::OpenedBackend opened = kernels::OpenBackend({.device = device, .threads = 2});
  FACET_CHECK(opened.backend != nullptr) << opened.error;
  StatusOr<std::unique_ptr<ModelExecutor>> executor =
      ModelExecutor::Create({.model_directory = directory,
                             .dtype = DType::kBf16,
                             .kv_bytes = 64 << 20,
                             .running_max = 64,
                             .step_tokens_max = 512},
                            std::move(opened.backend));
  FACET_CHECK(executor.ok()) << executor.status().ToString();
  return *std::move(executor);
}

class CudaGoldenTest : public testing::TestWithParam<GoldenCase> {};

TEST_P(CudaGoldenTest, LogitsAreNoFurtherOffThanTransformersOwnRun) {
  const GoldenFile golden(GetParam().logits_file);
  if (!golden.Has("bf16_max")) GTEST_SKIP() << "the case has no bfloat16 figures";
  const std::vector<float> want = golden.Floats("logits");
  const auto executor = MakeExecutor(GetParam().model_directory, "cuda:0");
  const std::vector<float> got = PromptLogits(*executor, golden.Ints("ids"), 512);
  EXPECT_LE(MeanDifference(got, want), 1.2 * golden.Floats("bf16_mean")[0]);
  EXPECT_LE(LargestDifference(got, want), 1.4 * golden.Floats("bf16_max")[0]);
}

// Two backends that round at the same places: no further apart than one of them may be from
// float32. Random weights leave the largest logits close together, so that some tokens change;
// those of the demo models do not (below).
TEST_P(CudaGoldenTest, AgreesWithTheCpu) {
  const GoldenFile golden(GetParam().logits_file);
  if (!golden.Has("bf16_max")) GTEST_SKIP() << "the case has no bfloat16 figures";
  const auto logits_on = [&](const char* device) {
    return PromptLogits(*MakeExecutor(GetParam().model_directory, device), golden.Ints("ids"), 512);
  };
  const std::vector<float> cpu = logits_on("cpu");
  const std::vector<float> cuda = logits_on("cuda:0");
  EXPECT_LE(MeanDifference(cuda, cpu), 1.2 * golden.Floats("bf16_mean")[0]);
  EXPECT_LE(LargestDifference(cuda, cpu), 1.4 * golden.Floats("bf16_max")[0]);
  const auto num_tokens = std::ssize(golden.Ints("ids"));
  const auto vocab = std::ssize(cpu) / num_tokens;
  const auto drawn = [&](const std::vector<float>& logits, int64_t token) {
    const auto row = logits.begin() + token * vocab;
    return std::max_element(row, row + vocab) - row;
  };
  int64_t num_equal = 0;
  for (int64_t t = 0; t < num_tokens; ++t) num_equal += drawn(cuda, t) == drawn(cpu, t) ? 1 : 0;
  EXPECT_GE(num_equal * 10, num_tokens * 8) << num_equal << " of " << num_tokens;
}

TEST_P(CudaGoldenTest, ChunkingChangesNoBit) {
  const GoldenFile golden(GetParam().logits_file);
  const auto executor = MakeExecutor(GetParam().model_directory, "cuda:0");
  const std::vector<float> whole = PromptLogits(*executor, golden.Ints("ids"), 512);
  for (const int32_t chunk : {7, 1}) {
    EXPECT_EQ(PromptLogits(*executor, golden.Ints("ids"), chunk), whole) << "chunk " << chunk;
  }
  // As serving runs a prompt, with nothing wanted of its other tokens (gemma4.h).
  const auto last = worker::RunLastLogits(*executor, golden.Ints("ids"), 16);
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(*last, std::vector<float>(whole.end() - executor->info().vocab, whole.end()));
}

// A demo model's answers, several at once, are those that it gives alone, and those of the CPU.
TEST(CudaDemoModelTest, GreedyTokensEqualTheCpus) {
  for (const std::string name : {"e4b", "26b"}) {
    const GoldenFile golden("tests/golden/logits/demo_" + name + ".safetensors");
    const std::string model = "deploy/demo/models/facet-demo-" + name;
    std::vector<std::vector<std::vector<int32_t>>> answers;
    for (const char* device : {"cpu", "cuda:0"}) {
      const auto executor = MakeExecutor(model, device);
      EngineDriver driver({.scheduler = {.context_tokens_max = 4096}}, *executor);
      for (int i = 0; i < 4; ++i) {
        std::vector<int32_t> ids = golden.Ints(StrCat("ids_", i));
        const std::vector<int32_t> want = golden.Ints(StrCat("argmax_", i));
        // The prompt ends where the first token of the answer is asked for.
        const auto first =
            std::find_if(want.begin(), want.end(), [](int32_t id) { return id >= 0; });
        ids.resize(static_cast<size_t>(first - want.begin()) + 1);
        driver.Submit({.request_id = StrCat(i),
                       .prompt_ids = ids,
                       .sampling = {.temperature = 0},
                       .new_tokens_max = 8});
      }
      ASSERT_TRUE(driver.RunAll());
      std::vector<std::vector<int32_t>> tokens;
      tokens.reserve(4);
      for (int i = 0; i < 4; ++i) tokens.push_back(driver.answer(StrCat(i)).tokens);
      answers.push_back(std::move(tokens));
    }
    EXPECT_EQ(answers[1], answers[0]) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases,
                         CudaGoldenTest,
                         testing::ValuesIn(LoadGoldenCases()),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace facet::test
