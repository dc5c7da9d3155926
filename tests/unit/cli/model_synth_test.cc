#include "cli/model_synth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "cli/model_inspect.h"
#include "cli/model_logits.h"
#include "worker/model/gemma4_config.h"

namespace facet {
namespace {

using testing::HasSubstr;

struct PublishedCase {
  const char* shape;
  int64_t parameters;
  size_t shards;
};

void PrintTo(const PublishedCase& published, std::ostream* out) { *out << published.shape; }

class PublishedShapeTest : public testing::TestWithParam<PublishedCase> {};

TEST_P(PublishedShapeTest, HasThePublishedNumberOfParameters) {
  const auto shape = worker::PublishedShape(GetParam().shape);
  ASSERT_TRUE(shape.ok());
  const auto plan = PlanSynth(*shape);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_parameters, GetParam().parameters);
  EXPECT_EQ(plan->shards.size(), GetParam().shards);
  for (const SynthShard& shard : plan->shards) {
    EXPECT_TRUE(shard.data_bytes <= kShardBytesMax || shard.tensors.size() == 1);
  }
}

// Text part only, as transformers counts it.
INSTANTIATE_TEST_SUITE_P(Shapes,
                         PublishedShapeTest,
                         testing::Values(PublishedCase{"e2b", 4'628'569'379, 3},
                                         PublishedCase{"e4b", 7'463'013'418, 4},
                                         PublishedCase{"26b", 25'233'141'790, 11},
                                         PublishedCase{"31b", 30'697'345'340, 13}));

TEST(WithLayersTest, EveryNumberOfLayersGivesAConfigThatIsServed) {
  for (const char* name : {"e2b", "e4b", "26b", "31b"}) {
    const worker::ModelShape published = *worker::PublishedShape(name);
    for (int32_t layers = 2; layers <= published.num_layers; ++layers) {
      const auto shape = worker::WithLayers(published, layers);
      ASSERT_TRUE(shape.ok());
      const auto config = worker::ParseGemma4Config(worker::ConfigJson(*shape));
      ASSERT_TRUE(config.ok()) << name << " with " << layers << ": " << config.status();
      EXPECT_TRUE(config->layers.back().full);
    }
  }
}

TEST(WithLayersTest, AllLayersAreThePublishedShape) {
  const worker::ModelShape published = *worker::PublishedShape("e2b");
  EXPECT_EQ(worker::ConfigJson(*worker::WithLayers(published, 35)), worker::ConfigJson(published));
  EXPECT_THAT(std::string(worker::WithLayers(published, 36).status().message()),
              HasSubstr("layers is 36; e2b has 2 to 35"));
}

constexpr size_t kNumLogits = 4500;  // Of 15 tokens and a vocabulary of 300.

// The features of a published shape at a size for tests.
worker::ModelShape Tiny(const char* name) {
  const worker::ModelShape published = *worker::PublishedShape(name);
  worker::ModelShape shape = *worker::WithLayers(published, 2 * published.full_every);
  shape.hidden = 64;
  shape.intermediate = 96;
  shape.num_q_heads = 4;
  shape.num_kv_heads = published.num_kv_heads == 1 ? 1 : 2;
  shape.num_global_kv_heads = published.num_global_kv_heads == 0 ? 0 : 1;
  shape.head_dim = 16;
  shape.global_head_dim = 32;
  shape.window = 8;
  shape.vocab = 300;
  if (shape.ple_size > 0) shape.ple_size = 16;
  if (shape.num_experts > 0) {
    shape.num_experts = 8;
    shape.top_k_experts = 2;
    shape.expert_intermediate = 16;
  }
  return shape;
}

class SynthTest : public testing::TestWithParam<const char*> {
 protected:
  SynthTest() : directory_(std::filesystem::path(testing::TempDir()) / "facet_model_synth_test") {
    std::filesystem::remove_all(directory_);
  }

  ~SynthTest() override { std::filesystem::remove_all(directory_); }

  std::string Path(const char* name) const { return (directory_ / name).string(); }

  const std::filesystem::path directory_;
};

TEST_P(SynthTest, WritesAModelThatRunsWithFiniteLogitsThatVary) {
  // Small shards, so that the index is read too.
  const SynthPlan plan = *PlanSynth(Tiny(GetParam()), /*shard_bytes_max=*/100'000);
  ASSERT_GT(plan.shards.size(), 1U);
  ASSERT_TRUE(WriteSynth(plan, Path("m"), 7).ok());
  const auto report = InspectModel(Path("m"));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->parameters, plan.num_parameters);
  EXPECT_EQ(report->bytes_by_dtype.at("BF16"), 2 * plan.num_parameters);
  EXPECT_EQ(report->tensors_unused, 0);
  EXPECT_THAT(report->warnings, testing::Each(testing::Not(HasSubstr("weights"))));

  for (const char* dtype : {"f32", "bf16"}) {
    const Status status = WriteLogits({.model_directory = Path("m"),
                                       .ids = {2, 7, 9, 250, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13},
                                       .dtype = dtype,
                                       .chunk_tokens = 4,
                                       .threads = 1,
                                       .out_file = Path("logits")});
    ASSERT_TRUE(status.ok()) << status;
    const std::string bytes = *ReadFile(Path("logits"));
    ASSERT_EQ(bytes.size(), kNumLogits * sizeof(float));
    std::vector<float> logits(kNumLogits);
    std::memcpy(logits.data(), bytes.data(), bytes.size());
    double sum_squares = 0;
    for (const float logit : logits) sum_squares += static_cast<double>(logit) * logit;
    const double deviation = std::sqrt(sum_squares / static_cast<double>(logits.size()));
    EXPECT_GT(deviation, 0.3);  // Also false for NaN.
    EXPECT_LT(deviation, 5);
  }
}

TEST_P(SynthTest, TheSameSeedWritesTheSameWeights) {
  const SynthPlan plan = *PlanSynth(Tiny(GetParam()));
  ASSERT_TRUE(WriteSynth(plan, Path("a"), 1).ok());
  ASSERT_TRUE(WriteSynth(plan, Path("b"), 1).ok());
  ASSERT_TRUE(WriteSynth(plan, Path("c"), 2).ok());
  const std::string a = *ReadFile(Path("a/model.safetensors"));
  EXPECT_EQ(a, *ReadFile(Path("b/model.safetensors")));
  EXPECT_NE(a, *ReadFile(Path("c/model.safetensors")));
  EXPECT_EQ(plan.bytes, static_cast<int64_t>(a.size() + ReadFile(Path("a/config.json"))->size() +
                                             ReadFile(Path("a/generation_config.json"))->size()));
}

INSTANTIATE_TEST_SUITE_P(Shapes, SynthTest, testing::Values("e2b", "e4b", "26b", "31b"));

TEST_F(SynthTest, RefusesADirectoryThatHoldsFiles) {
  std::filesystem::create_directories(directory_);
  std::ofstream(directory_ / "x") << "x";
  EXPECT_THAT(std::string(WriteSynth(*PlanSynth(Tiny("31b")), directory_.string(), 0).message()),
              HasSubstr("is not empty"));
}

TEST_F(SynthTest, RefusesWhatTheDiskCannotHoldAndMakesNothing) {
  SynthPlan plan = *PlanSynth(Tiny("31b"));
  plan.bytes = int64_t{1} << 60;
  EXPECT_THAT(std::string(WriteSynth(plan, Path("m"), 0).message()),
              HasSubstr("needs 1152921504606846976 bytes"));
  EXPECT_FALSE(std::filesystem::exists(directory_));
}

}  // namespace
}  // namespace facet
