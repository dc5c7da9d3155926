// Sampling on the device gives the host's tokens, however a row is spread over parts (sample.cu).
// On the emulator, which has 4 SMs, a row alone goes to four parts and one of two to two.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/host_sampling.h"
#include "tests/conformance/conformance_case.h"

namespace facet::kernels {
namespace {

using Random = std::mt19937;

struct LogitsCase {
  const char* name;
  float (*logit)(int64_t id, Random& random);
};

float Normal(Random& random) { return std::normal_distribution<float>(0, 4)(random); }

const LogitsCase kLogits[] = {
    {"all_different", [](int64_t, Random& random) { return Normal(random); }},
    {"many_equal", [](int64_t, Random& random) { return std::round(Normal(random)); }},
    {"all_equal", [](int64_t, Random&) { return 1.5F; }},
    {"zeros_of_both_signs",
     [](int64_t, Random& random) { return random() % 2 == 0 ? 0.0F : -0.0F; }},
    {"rising", [](int64_t id, Random&) { return static_cast<float>(id) / 1024; }},
    {"falling", [](int64_t id, Random&) { return static_cast<float>(-id) / 1024; }},
    // Neighbours that belong to different parts.
    {"largest_at_borders",
     [](int64_t id, Random& random) {
       return id > 20 && id < 200 && (id + 1) % 32 < 2 ? 20.0F : Normal(random);
     }},
    // Few threads hold all large ones: the bound lets more pass than there is room for.
    {"crowded",
     [](int64_t id, Random& random) {
       return id % 32 < 8 ? 5 + static_cast<float>(random() % 4096) / 512 : Normal(random) - 30;
     }},
    {"crowded_and_equal", [](int64_t id, Random&) { return id % 32 < 8 ? 5.0F : -30.0F; }},
    // Divided by a temperature below 1.
    {"beyond_float32", [](int64_t, Random& random) { return std::ldexp(Normal(random), 120); }},
};

void PrintTo(const LogitsCase& logits, std::ostream* out) { *out << logits.name; }

// Every way that the kernel takes, and combinations of filters.
std::vector<SampleRow> AllWays() {
  return {
      {.temperature = 0},
      {.temperature = 1},
      {.temperature = 0.7F},
      {.temperature = 1, .top_k = 1},
      {.temperature = 1, .top_k = 2, .top_p = 0},
      {.temperature = 1.3F, .top_k = 63},
      {.temperature = 1, .top_k = 64, .top_p = 0.95F},
      {.temperature = 0.7F, .top_k = 64},
      {.temperature = 2, .min_p = 0.2F, .top_k = 64, .top_p = 0.8F},
      {.temperature = 1, .min_p = 1.5F, .top_k = 20, .top_p = 0.8F},
      {.temperature = 1.3F, .top_k = 65},
      {.temperature = 1, .top_k = 700, .top_p = 0.9F},
      {.temperature = 1, .min_p = 0.05F},
  };
}

class CudaSampleTest : public testing::TestWithParam<LogitsCase> {
 protected:
  CudaSampleTest() : device_(Peers().front().make(), /*reads_host_memory=*/false) {}

  int64_t Between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1));
  }

  Tensor Logits(int64_t num_rows, int64_t vocab) {
    Tensor logits(DType::kF32, {num_rows, vocab});
    for (int64_t i = 0; i < logits.size(); ++i) {
      logits.set(i, GetParam().logit(i % vocab, random_));
    }
    return logits;
  }

  void ExpectTheHostsTokens(const Tensor& logits, std::vector<SampleRow> rows) {
    const int64_t vocab = logits.view().dim(1);
    Tensor last(DType::kI32, {std::ssize(rows)});
    std::vector<int32_t> want_last = last.ints();
    std::vector<float> scratch(static_cast<size_t>(vocab));
    std::vector<SampledToken> want;
    for (size_t i = 0; i < rows.size(); ++i) {
      SampleRow& row = rows[i];
      row.seed = random_();
      row.slot = static_cast<int32_t>(i);
      const float* row_logits = logits.view().as<float>() + row.logits_row * vocab;
      want.push_back(SampleOnHost(row, row_logits, vocab, scratch.data()));
      if (want[i].finite) want_last[i] = want[i].id;
    }
    const std::vector<SampledToken> got = device_.Sample(logits, rows, last);
    ASSERT_EQ(got.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      const std::string which = "row " + std::to_string(i) + " of " + std::to_string(rows.size()) +
                                ", top_k " + std::to_string(rows[i].top_k) + ", temperature " +
                                std::to_string(rows[i].temperature);
      EXPECT_EQ(got[i].finite, want[i].finite) << which;
      EXPECT_EQ(got[i].id, want[i].id) << which;
    }
    EXPECT_EQ(last.ints(), want_last);
  }

  Random random_{1};
  Side device_;
};

TEST_P(CudaSampleTest, ARowAlone) {
  const Tensor logits = Logits(1, Between(3 * 4096 + 1, 20000));
  for (const SampleRow& row : AllWays()) ExpectTheHostsTokens(logits, {row});
}

TEST_P(CudaSampleTest, RowsOfAllWaysInALaunch) {
  const Tensor logits = Logits(3, Between(3 * 4096 + 1, 20000));
  const std::vector<SampleRow::Bias> bias = {{5, 3}};
  const std::vector<int32_t> barred = {0, 31};
  std::vector<SampleRow> ways = AllWays();
  for (size_t i = 0; i < ways.size(); ++i) ways[i].logits_row = static_cast<int32_t>(i % 3);
  // Two that may have parts, and others beside them.
  for (size_t i = 1; i < ways.size(); ++i) {
    SampleRow adjusted = ways[i];
    adjusted.bias = bias;
    adjusted.barred = barred;
    ExpectTheHostsTokens(logits, {adjusted, ways[i - 1], {.top_k = 100}, ways[i]});
  }
  ExpectTheHostsTokens(logits, ways);  // More than there are SMs.
}

TEST_P(CudaSampleTest, AVocabularyOfGemma) {
  const Tensor logits = Logits(1, 262144);
  ExpectTheHostsTokens(logits, {{.temperature = 0}});
  ExpectTheHostsTokens(logits, {{.temperature = 1}});
  ExpectTheHostsTokens(logits, {{.temperature = 1, .top_k = 64, .top_p = 0.95F}});
}

INSTANTIATE_TEST_SUITE_P(Logits, CudaSampleTest, testing::ValuesIn(kLogits), [](const auto& of) {
  return of.param.name;
});

// The value is found in whatever part it is, and only its row is lost.
class CudaSampleNotFiniteTest : public CudaSampleTest {};

TEST_P(CudaSampleNotFiniteTest, OneLogit) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const int64_t vocab = Between(3 * 4096 + 1, 20000);
  const std::vector<int32_t> barred = {0};
  Tensor logits = Logits(2, vocab);
  for (const int64_t id : {int64_t{0}, int64_t{31}, int64_t{32}, int64_t{64}, int64_t{96},
                           Between(128, vocab - 2), vocab - 1}) {
    for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity, -kInfinity}) {
      const float good = logits.at(vocab + id);
      logits.set(vocab + id, bad);
      ExpectTheHostsTokens(logits, {{.logits_row = 1, .top_k = 64}});
      ExpectTheHostsTokens(logits, {{.logits_row = 0, .top_k = 64},
                                    {.logits_row = 1},
                                    {.logits_row = 1, .top_k = 65},
                                    {.logits_row = 1, .barred = barred}});
      ExpectTheHostsTokens(logits, {{.logits_row = 1, .temperature = 0}});
      logits.set(vocab + id, good);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Logits,
                         CudaSampleNotFiniteTest,
                         testing::Values(kLogits[0]),
                         [](const auto& of) { return of.param.name; });

}  // namespace
}  // namespace facet::kernels
