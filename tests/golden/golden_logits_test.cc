// The model against Hugging Face transformers: float32 logits within 1e-3 at every position,
// prefill whole, chunked and token by token; 64 greedy tokens equal; bfloat16 no further off than
// transformers' own bfloat16 run.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "kernels/cpu/cpu_backend.h"
#include "tests/golden/golden_files.h"
#include "tests/support/engine_driver.h"
#include "tests/support/prompt_logits.h"
#include "worker/executor/model_executor.h"

namespace facet::test {
namespace {

using kernels::CpuTier;
using kernels::DType;
using worker::ModelExecutor;

constexpr double kFloat32Bound = 1e-3;
constexpr int32_t kStepTokensMax = 2048;

std::unique_ptr<ModelExecutor> MakeExecutor(const std::string& directory,
                                            DType dtype,
                                            CpuTier tier,
                                            int threads = 1) {
  StatusOr<std::unique_ptr<ModelExecutor>> executor =
      ModelExecutor::Create({.model_directory = directory,
                             .dtype = dtype,
                             .kv_bytes = 64 << 20,
                             .running_max = 64,
                             .step_tokens_max = kStepTokensMax},
                            std::make_unique<kernels::CpuBackend>(tier, threads));
  FACET_CHECK(executor.ok()) << executor.status().ToString();
  return *std::move(executor);
}

class GoldenLogitsTest : public testing::TestWithParam<GoldenCase> {};

TEST_P(GoldenLogitsTest, Float32LogitsEqualTransformersInEveryChunking) {
  const GoldenFile golden(GetParam().logits_file);
  const auto executor =
      MakeExecutor(GetParam().model_directory, DType::kF32, kernels::BestCpuTier());
  const std::vector<float> want = golden.Floats("logits");
  for (const int32_t chunk : {2000, 16, 7, 1}) {
    const double difference =
        LargestDifference(PromptLogits(*executor, golden.Ints("ids"), chunk), want);
    EXPECT_LE(difference, kFloat32Bound) << "chunk " << chunk;
    if (chunk == 2000) RecordProperty("largest_difference", std::to_string(difference));
  }
}

TEST_P(GoldenLogitsTest, Float32LogitsOfALongPromptEqualTransformers) {
  if (GetParam().long_file.empty()) GTEST_SKIP() << "the case has no long prompt";
  const GoldenFile golden(GetParam().long_file);
  const auto executor =
      MakeExecutor(GetParam().model_directory, DType::kF32, kernels::BestCpuTier(), 2);
  const std::vector<float> want = golden.Floats("logits");
  for (const int32_t chunk : {2000, 333}) {
    std::vector<float> got = PromptLogits(*executor, golden.Ints("ids"), chunk);
    got.erase(got.begin(), got.end() - static_cast<int64_t>(want.size()));
    // A third of what rope angles in double precision would be off (generate.py's README).
    EXPECT_LE(LargestDifference(got, want), 3e-4) << "chunk " << chunk;
  }
}

TEST_P(GoldenLogitsTest, GreedyTokensEqualTransformersInEveryTier) {
  const GoldenFile golden(GetParam().logits_file);
  if (!golden.Has("greedy")) GTEST_SKIP() << "the case has no greedy tokens";
  for (const CpuTier tier : {CpuTier::kScalar, CpuTier::kAvx2, CpuTier::kAvx512}) {
    if (!kernels::Supports(tier)) continue;
    const auto executor = MakeExecutor(GetParam().model_directory, DType::kF32, tier);
    EngineDriver driver({.scheduler = {.context_tokens_max = 4096}}, *executor);
    driver.Submit({.request_id = "a",
                   .prompt_ids = golden.Ints("ids"),
                   .sampling = {.temperature = 0},
                   .new_tokens_max = 64});
    ASSERT_TRUE(driver.RunAll());
    EXPECT_EQ(driver.answer("a").tokens, golden.Ints("greedy")) << kernels::NameOf(tier);
  }
}

TEST_P(GoldenLogitsTest, Bfloat16IsNoFurtherOffThanTransformersOwnRun) {
  const GoldenFile golden(GetParam().logits_file);
  if (!golden.Has("bf16_max")) GTEST_SKIP() << "the case has no bfloat16 figures";
  const std::vector<float> want = golden.Floats("logits");
  for (const CpuTier tier : {CpuTier::kScalar, CpuTier::kAvx2, CpuTier::kAvx512}) {
    if (!kernels::Supports(tier)) continue;
    const auto executor = MakeExecutor(GetParam().model_directory, DType::kBf16, tier);
    const std::vector<float> got = PromptLogits(*executor, golden.Ints("ids"), 2000);
    EXPECT_LE(MeanDifference(got, want), 1.2 * golden.Floats("bf16_mean")[0])
        << kernels::NameOf(tier);
    EXPECT_LE(LargestDifference(got, want), 1.2 * golden.Floats("bf16_max")[0])
        << kernels::NameOf(tier);
  }
}

// Logits cannot show a missing division: a norm follows that takes it back.
TEST(GoldenRouterTest, ChoosesAndWeighsAsTransformersDoes) {
  const GoldenFile golden("tests/golden/logits/moe_router.safetensors");
  const std::string model = "tests/golden/models/moe";
  const worker::Gemma4Config config = *worker::LoadGemma4Config(model);
  kernels::CpuBackend backend(kernels::BestCpuTier(), 1);
  const worker::Gemma4Weights weights = *worker::LoadGemma4Weights(
      *worker::Checkpoint::Open(model), config, {}, DType::kF32, backend, nullptr);
  const worker::LayerWeights& layer = weights.layers[golden.Ints("layer")[0]];
  std::vector<float> hidden = golden.Floats("hidden");
  const int64_t size = config.hidden;
  const auto tokens = static_cast<int64_t>(hidden.size()) / size;
  const int64_t top_k = config.top_k_experts;
  // A branch of zeros leaves the residual as it is.
  const std::vector<float> zeros(hidden.size());
  std::vector<float> dense_in(hidden.size());
  std::vector<float> expert_in(hidden.size());
  std::vector<int32_t> ids(tokens * top_k);
  std::vector<float> topk_weights(tokens * top_k);
  const auto view = [&](auto* data, int64_t width) {
    return kernels::TensorView(data, DType::kF32, {tokens, width});
  };
  backend.NormRouterTopK(
      {.hidden = view(hidden.data(), size),
       .attention_out = kernels::ConstTensorView(zeros.data(), DType::kF32, {tokens, size}),
       .post_attention_norm = layer.post_attention_norm.view,
       .pre_norm = layer.pre_feedforward_norm.view,
       .pre_norm_2 = layer.pre_feedforward_norm_2.view,
       .router_scale = layer.router_scale.view,
       .router = layer.router,
       .per_expert_scale = layer.per_expert_scale.view,
       .eps = config.eps,
       .dense_in = view(dense_in.data(), size),
       .expert_in = view(expert_in.data(), size),
       .topk_ids = kernels::TensorView(ids.data(), DType::kI32, {tokens, top_k}),
       .topk_weights = view(topk_weights.data(), top_k)});
  EXPECT_EQ(ids, golden.Ints("topk_ids"));
  EXPECT_LE(LargestDifference(topk_weights, golden.Floats("topk_weights")), 1e-5);
}

// On trained models bfloat16 must choose what float32 chooses: at least 99 % of the answers'
// tokens, teacher-forced over the rendered conversations of deploy/demo/eval.jsonl.
class DemoModelTest : public testing::TestWithParam<const char*> {};

TEST_P(DemoModelTest, Bfloat16ChoosesWhatFloat32Chooses) {
  const std::string name = GetParam();
  const GoldenFile golden("tests/golden/logits/demo_" + name + ".safetensors");
  const auto executor = MakeExecutor("deploy/demo/models/facet-demo-" + name, DType::kBf16,
                                     kernels::BestCpuTier(), 2);
  int64_t compared = 0;
  int64_t equal = 0;
  for (int i = 0; golden.Has(StrCat("ids_", i)); ++i) {
    const std::vector<float> logits = PromptLogits(*executor, golden.Ints(StrCat("ids_", i)), 2000);
    const std::vector<int32_t> want = golden.Ints(StrCat("argmax_", i));
    const int64_t vocab = executor->info().vocab;
    for (size_t t = 0; t < want.size(); ++t) {
      if (want[t] < 0) continue;  // Not a token of an answer: the model was not trained on it.
      const auto row = logits.begin() + static_cast<int64_t>(t) * vocab;
      equal += std::max_element(row, row + vocab) - row == want[t] ? 1 : 0;
      ++compared;
    }
  }
  EXPECT_GE(compared, 400);
  EXPECT_GE(static_cast<double>(equal), 0.99 * static_cast<double>(compared));
}

INSTANTIATE_TEST_SUITE_P(Models,
                         DemoModelTest,
                         testing::Values("e4b", "26b"),
                         [](const auto& model) { return std::string(model.param); });

INSTANTIATE_TEST_SUITE_P(Cases,
                         GoldenLogitsTest,
                         testing::ValuesIn(LoadGoldenCases()),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace facet::test
