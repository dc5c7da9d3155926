// Would the oracle notice? Each plausible mistake in reading the model (kernels/misreading.h),
// switched on alone, must move a logit of some case by more than the float32 bound. Built from the
// reference ops and the model compiled with FACET_MISREADINGS.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "kernels/misreading.h"
#include "kernels/reference/reference_backend.h"
#include "tests/golden/golden_files.h"
#include "tests/support/prompt_logits.h"
#include "worker/executor/model_executor.h"

namespace facet::test {
namespace {

using kernels::Misreading;

constexpr double kFloat32Bound = 1e-3;

std::vector<float> Logits(const std::string& directory, const std::vector<int32_t>& ids) {
  StatusOr<std::unique_ptr<worker::ModelExecutor>> executor =
      worker::ModelExecutor::Create({.model_directory = directory,
                                     .dtype = kernels::DType::kF32,
                                     .kv_bytes = 64 << 20,
                                     .running_max = 1,
                                     .step_tokens_max = 2048},
                                    std::make_unique<kernels::ReferenceBackend>());
  // A mistake that the loader itself refuses has been noticed.
  if (!executor.ok()) return {};
  return PromptLogits(**executor, ids, 2048);
}

// Over the short prompts of all cases; stops at the first that shows the mistake.
double LargestEffect(Misreading misreading) {
  kernels::active_misreading = misreading;
  double largest = 0;
  for (const GoldenCase& golden_case : LoadGoldenCases()) {
    const GoldenFile golden(golden_case.logits_file);
    const std::vector<float> got = Logits(golden_case.model_directory, golden.Ints("ids"));
    largest = std::max(largest, LargestDifference(got, golden.Floats("logits")));
    if (misreading != Misreading::kNone && largest > kFloat32Bound) break;
  }
  kernels::active_misreading = Misreading::kNone;
  return largest;
}

TEST(MisreadingsTest, TheReferenceItselfAgreesWithTransformers) {
  EXPECT_LE(LargestEffect(Misreading::kNone), kFloat32Bound);
}

class MisreadingTest : public testing::TestWithParam<int> {};

TEST_P(MisreadingTest, MovesALogitByMoreThanTheBound) {
  const auto misreading = static_cast<Misreading>(GetParam());
  EXPECT_GT(LargestEffect(misreading), kFloat32Bound);
}

// All but those that only a long prompt shows.
std::vector<int> ShownByShortPrompts() {
  std::vector<int> all;
  for (int i = 1; i <= static_cast<int>(kernels::kLastMisreading); ++i) {
    if (static_cast<Misreading>(i) != Misreading::kDoubleAngles) all.push_back(i);
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, MisreadingTest, testing::ValuesIn(ShownByShortPrompts()));

// Angles in double precision differ visibly only at large positions; the long prompts' bound is the
// one that golden_logits_test holds the CPU backend to.
TEST(MisreadingsTest, DoubleAnglesShowInALongPrompt) {
  for (const GoldenCase& golden_case : LoadGoldenCases()) {
    if (golden_case.name != "e4b") continue;
    const GoldenFile golden(golden_case.long_file);
    const std::vector<float> want = golden.Floats("logits");
    kernels::active_misreading = Misreading::kDoubleAngles;
    std::vector<float> got = Logits(golden_case.model_directory, golden.Ints("ids"));
    kernels::active_misreading = Misreading::kNone;
    got.erase(got.begin(), got.end() - static_cast<int64_t>(want.size()));
    EXPECT_GT(LargestDifference(got, want), 3e-4);
  }
}

}  // namespace
}  // namespace facet::test
