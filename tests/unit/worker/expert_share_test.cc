// A rank reads the dense weights and its own experts, and nothing of the others.
#include "worker/model/expert_share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.h"
#include "worker/model/device_bytes.h"
#include "worker/model/weights.h"

namespace facet::worker {
namespace {

using testing::HasSubstr;

constexpr const char* kModel = "tests/golden/models/moe";  // 16 experts in each of 6 layers.

struct ShareCase {
  const char* name;
  ExpertShare share;
  int32_t num_experts;
  const char* error;
};

const ShareCase kShares[] = {
    {"one_process", {0, 1}, 12, ""},
    {"the_last_of_eight", {7, 8}, 16, ""},
    {"three_ranks", {0, 3}, 16, "num_ranks is 3; experts can be shared by 1, 2, 4 or 8 ranks"},
    {"sixteen_ranks", {0, 16}, 16, "num_ranks is 16; experts"},
    {"no_ranks", {0, 0}, 16, "num_ranks is 0; experts"},
    {"a_rank_too_many", {2, 2}, 16, "rank is 2; it must be from 0 to 1"},
    {"a_rank_below_0", {-1, 2}, 16, "rank is -1; it must be from 0 to 1"},
    {"slices_of_unequal_size", {0, 2}, 12, "num_experts is 12; ranks can share a multiple of 8"},
    {"a_dense_model", {0, 2}, 0, "num_ranks is 2; the model has no experts to share"},
};

class ExpertShareTest : public testing::TestWithParam<ShareCase> {};

TEST_P(ExpertShareTest, IsCheckedAgainstTheModel) {
  Gemma4Config config;
  config.num_experts = GetParam().num_experts;
  const Status status = CheckExpertShare(GetParam().share, config);
  EXPECT_EQ(status.ok(), GetParam().error[0] == '\0') << status;
  EXPECT_THAT(MessageOf(status), HasSubstr(GetParam().error));
}

INSTANTIATE_TEST_SUITE_P(Cases, ExpertShareTest, testing::ValuesIn(kShares), [](const auto& share) {
  return std::string(share.param.name);
});

// What the files hold of experts and of all the rest.
struct StoredBytes {
  int64_t experts = 0;
  int64_t dense = 0;
};

StoredBytes BytesOf(const Gemma4Config& config, const Checkpoint& checkpoint) {
  StoredBytes bytes;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    const bool experts = tensor.name.find(".experts.") != std::string::npos;
    (experts ? bytes.experts : bytes.dense) += checkpoint.Find(tensor.name)->bytes;
  }
  return bytes;
}

TEST(ExpertShareLoadingTest, ARankReadsItsExpertsAndTheRanksTogetherReadEachOnce) {
  const Gemma4Config config = *LoadGemma4Config(kModel);
  const StoredBytes stored = BytesOf(config, *Checkpoint::Open(kModel));
  EXPECT_EQ(stored.experts, int64_t{6} * 16 * 3 * 16 * 96 * 2);
  for (const int32_t num_ranks : {1, 2, 4, 8}) {
    int64_t sum = 0;
    for (int32_t rank = 0; rank < num_ranks; ++rank) {
      kernels::CpuBackend backend(kernels::CpuTier::kScalar, 1);
      int64_t done = 0;
      int64_t total = 0;
      const auto weights =
          LoadGemma4Weights(*Checkpoint::Open(kModel), config, {rank, num_ranks},
                            kernels::DType::kBf16, backend, [&](int64_t now, int64_t in_all) {
                              done = now;
                              total = in_all;
                            });
      ASSERT_TRUE(weights.ok()) << weights.status();
      EXPECT_EQ(weights->bytes_read, stored.dense + stored.experts / num_ranks);
      EXPECT_EQ(done, weights->bytes_read);
      EXPECT_EQ(total, weights->bytes_read);
      for (const LayerWeights& layer : weights->layers) {
        EXPECT_EQ(layer.experts.size(), static_cast<size_t>(16 / num_ranks));
      }
      sum += weights->bytes_read;
    }
    EXPECT_EQ(sum, stored.experts + num_ranks * stored.dense) << num_ranks << " ranks";
  }
}

TEST(ExpertShareLoadingTest, ExpertsAreIndexedFromTheFirstOfTheRank) {
  const Gemma4Config config = *LoadGemma4Config(kModel);
  kernels::CpuBackend backend(kernels::CpuTier::kScalar, 1);
  const auto load = [&](const ExpertShare& share) {
    return *LoadGemma4Weights(*Checkpoint::Open(kModel), config, share, kernels::DType::kBf16,
                              backend, nullptr);
  };
  const Gemma4Weights all = load({});
  const Gemma4Weights quarter = load({2, 4});
  const auto bytes = [](const kernels::PackedWeight& weight) {
    return std::string(static_cast<const char*>(weight.data.data()), weight.data.bytes());
  };
  for (size_t layer = 0; layer < all.layers.size(); ++layer) {
    for (size_t e = 0; e < 4; ++e) {
      const kernels::ExpertWeights& want = all.layers[layer].experts[8 + e];
      const kernels::ExpertWeights& got = quarter.layers[layer].experts[e];
      EXPECT_EQ(bytes(got.gate), bytes(want.gate));
      EXPECT_EQ(bytes(got.up), bytes(want.up));
      EXPECT_EQ(bytes(got.down), bytes(want.down));
    }
  }
}

TEST(ExpertShareLoadingTest, MemoryOfARankIsWithoutTheOthersExperts) {
  const Gemma4Config config = *LoadGemma4Config(kModel);
  const auto needed = [&](const ExpertShare& share) {
    return BytesNeeded(config, share, kernels::DType::kBf16, 16, 4).weights;
  };
  const StoredBytes stored = BytesOf(config, *Checkpoint::Open(kModel));
  EXPECT_EQ(needed({}) - needed({1, 8}), stored.experts / 8 * 7);
}

}  // namespace
}  // namespace facet::worker
