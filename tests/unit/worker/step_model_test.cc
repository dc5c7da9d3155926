// The step model: what it gives each row, and that a fit finds what was planted.
#include "worker/engine/step_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

#include "tests/support/fake_clock.h"
#include "worker/engine/warm_up.h"

namespace facet::test {
namespace {

using worker::FitStepModel;
using worker::StepFit;
using worker::StepModel;
using worker::StepRow;
using worker::StepSample;

constexpr StepModel kPlanted = {.base_ns = 2e6,
                                .prefill_token_ns = 30e3,
                                .prefill_token_context_ns = 8,
                                .decode_row_ns = 90e3,
                                .decode_context_ns = 50};

// Steps of one phase over several sizes and contexts, whose times are off by up to `noise`.
std::vector<StepSample> Samples(const StepModel& model, double noise, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> off(-noise, noise);
  std::vector<StepSample> samples;
  for (const double context : {1.0, 500.0, 2000.0, 8000.0}) {
    for (const int32_t size : {1, 4, 16, 64}) {
      const StepRow decode = {.is_decode = true, .context = context};
      const StepRow prefill = {.num_tokens = 8 * size, .context = context + 4 * size};
      samples.push_back({.rows = std::vector<StepRow>(size, decode)});
      samples.push_back({.rows = {prefill}});
    }
  }
  for (StepSample& sample : samples) {
    sample.device_ns = std::llround(model.StepNs(sample.rows) * (1 + off(random)));
  }
  return samples;
}

TEST(StepModelTest, AFitFindsWhatWasPlanted) {
  const StepFit fit = *FitStepModel(Samples(kPlanted, 0, 1));
  EXPECT_NEAR(fit.model.base_ns / kPlanted.base_ns, 1, 1e-4);
  EXPECT_NEAR(fit.model.prefill_token_ns / kPlanted.prefill_token_ns, 1, 1e-4);
  EXPECT_NEAR(fit.model.prefill_token_context_ns / kPlanted.prefill_token_context_ns, 1, 1e-4);
  EXPECT_NEAR(fit.model.decode_row_ns / kPlanted.decode_row_ns, 1, 1e-4);
  EXPECT_NEAR(fit.model.decode_context_ns / kPlanted.decode_context_ns, 1, 1e-4);
  EXPECT_LT(fit.error_ratio, 1e-4);
  EXPECT_TRUE(fit.model.predicts);
}

TEST(StepModelTest, NoiseOfFivePercentMovesPredictionsByLess) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const StepFit fit = *FitStepModel(Samples(kPlanted, 0.05, seed));
    EXPECT_GT(fit.error_ratio, 0.005) << seed;
    EXPECT_LT(fit.error_ratio, 0.06) << seed;
    for (const StepSample& exact : Samples(kPlanted, 0, 1)) {
      const auto ns = static_cast<double>(exact.device_ns);
      EXPECT_NEAR(fit.model.StepNs(exact.rows) / ns, 1, 0.05) << seed;
    }
  }
}

// Steps that get cheaper with more context would want a negative coefficient.
TEST(StepModelTest, NoCoefficientIsNegative) {
  StepModel odd = kPlanted;
  odd.decode_context_ns = -5;
  odd.prefill_token_context_ns = -1;
  const StepModel model = FitStepModel(Samples(odd, 0, 1))->model;
  EXPECT_EQ(model.decode_context_ns, 0);
  EXPECT_EQ(model.prefill_token_context_ns, 0);
  EXPECT_GT(model.decode_row_ns, 0);
}

TEST(StepModelTest, TooFewStepsGiveNoModel) {
  std::vector<StepSample> samples = Samples(kPlanted, 0, 1);
  std::vector<StepSample> decode;
  for (const StepSample& sample : samples) {
    if (sample.rows[0].is_decode) decode.push_back(sample);
  }
  samples.resize(6);
  EXPECT_EQ(MessageOf(FitStepModel(samples).status()), "there were only 6 steps to fit to");
  EXPECT_EQ(MessageOf(FitStepModel(decode).status()),
            "there were only 16 steps to fit to, of one phase");
}

TEST(StepModelTest, ARowsWeightIsItsOwnTermAndAnEqualPartOfTheBase) {
  const StepRow rows[] = {{.num_tokens = 100, .context = 50.5}, {.is_decode = true, .context = 9}};
  EXPECT_THAT(kPlanted.Weights(rows),
              ::testing::ElementsAre(1000UL * (1'000'000 + 100 * 30'000 + 8 * 5050),
                                     1000UL * (1'000'000 + 90'000 + 50 * 9)));
  EXPECT_THAT(StepModel().Weights(rows), ::testing::ElementsAre(100'000, 1000)) << "by tokens";
}

// Computes nothing; its steps take what the planted model says, the first of a shape ten times
// that.
class PlantedExecutor final : public worker::Executor {
 public:
  explicit PlantedExecutor(testing::FakeClock& clock) : clock_(clock) {
    info_.kv = {
        .slab_bytes = 128,
        .num_slabs = 4000,
        .geometries = {
            worker::KvLayout::Geometry{.block_bytes = 64, .blocks_per_slab = 2, .window = 32},
            worker::KvLayout::Geometry{.block_bytes = 32, .blocks_per_slab = 4}}};
    info_.vocab = 1000;
    info_.running_max = 8;
    info_.step_tokens_max = 64;
  }

  const worker::ExecutorInfo& info() const override { return info_; }

  worker::Ticket Submit(const worker::StepBatch& batch) override {
    std::vector<StepRow> rows;
    for (const worker::BatchRow& row : batch.rows) {
      EXPECT_LT(row.slot, info_.running_max);
      EXPECT_LE(row.first_position + row.num_tokens, 4000);
      const worker::BlockTable& full = row.tables[1];
      EXPECT_EQ(full.blocks.size(), (row.first_position + row.num_tokens + 15) / 16);
      for (const int32_t block : full.blocks) EXPECT_LT(block, info_.kv.num_blocks_max({}) * 2);
      rows.push_back({.is_decode = row.num_tokens == 1,
                      .num_tokens = row.num_tokens,
                      .context = StepRow::MeanContext(row.first_position, row.num_tokens)});
      longest_ = std::max(longest_, row.first_position);
    }
    EXPECT_LE(batch.num_tokens(), info_.step_tokens_max);
    ns_ = std::llround(kPlanted.StepNs(rows));
    if (++runs_[{rows.size(), rows[0].context}] == 1) ns_ *= 10;
    clock_.AdvanceMs(ns_ / 1'000'000);
    return 1;
  }

  void ProvideMask(worker::Ticket, int32_t, std::span<const uint32_t>) override {}

  worker::StepResult Await(worker::Ticket) override { return {.device_ns = ns_}; }

  int64_t longest() const { return longest_; }

 private:
  testing::FakeClock& clock_;
  worker::ExecutorInfo info_;
  std::map<std::pair<size_t, double>, int> runs_;
  int64_t ns_ = 0;
  int64_t longest_ = 0;
};

TEST(WarmUpTest, FindsTheModelOfAnExecutorWithinSlotsCacheAndContext) {
  testing::FakeClock clock;
  PlantedExecutor executor(clock);
  const StepFit fit = *FitStepModel(*worker::TimeSteps(executor, 4000, 10'000'000'000));
  EXPECT_EQ(executor.longest(), 2048);
  EXPECT_NEAR(fit.model.base_ns / kPlanted.base_ns, 1, 1e-3);
  EXPECT_NEAR(fit.model.prefill_token_context_ns / kPlanted.prefill_token_context_ns, 1, 1e-3);
  EXPECT_NEAR(fit.model.decode_context_ns / kPlanted.decode_context_ns, 1, 1e-3);
}

TEST(WarmUpTest, EndsWhenStepsHaveTakenEnough) {
  testing::FakeClock clock;
  PlantedExecutor executor(clock);
  EXPECT_TRUE(worker::TimeSteps(executor, 4000, 0)->empty());
  const int64_t start_ns = clock.NowNs();
  EXPECT_FALSE(worker::TimeSteps(executor, 4000, 100'000'000)->empty());
  EXPECT_LT(clock.NowNs() - start_ns, 150'000'000);
}

}  // namespace
}  // namespace facet::test
