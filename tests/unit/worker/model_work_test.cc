#include "worker/model/model_work.h"

#include <gtest/gtest.h>

#include "worker/model/gemma4_work.h"
#include "worker/model/model_shape.h"

namespace facet::worker {
namespace {

ModelWork WorkOfShape(const char* name) {
  const std::string config = ConfigJson(PublishedShape(name).value());
  return WorkOf(ParseGemma4Config(config).value(), kernels::DType::kBf16);
}

// 31B has neither experts nor shared layers: its products can be written down.
TEST(ModelWorkTest, ADenseModelMultipliesItsMatrices) {
  const ModelShape shape = PublishedShape("31b").value();
  const ModelWork work = WorkOfShape("31b");
  double products = 0;
  double full_position = 0;
  double sliding_position = 0;
  for (const bool full : shape.FullLayers()) {
    const double head_dim = full ? shape.global_head_dim : shape.head_dim;
    const double num_kv_heads =
        full && shape.num_global_kv_heads > 0 ? shape.num_global_kv_heads : shape.num_kv_heads;
    const double q_and_o = 2.0 * shape.hidden * shape.num_q_heads * head_dim;
    const double kv = (full && shape.k_eq_v ? 1.0 : 2.0) * shape.hidden * num_kv_heads * head_dim;
    products += q_and_o + kv + 3.0 * shape.hidden * shape.intermediate;
    (full ? full_position : sliding_position) += 4.0 * shape.num_q_heads * head_dim;
  }
  const double head = static_cast<double>(shape.vocab) * shape.hidden;
  EXPECT_DOUBLE_EQ(work.kv_layers.flops_per_token, 2 * products);
  EXPECT_EQ(work.last_layers.flops_per_token, 0);
  EXPECT_DOUBLE_EQ(work.flops_per_logits, 2 * head);
  EXPECT_DOUBLE_EQ(work.WeightBytes(1), 2 * (products + head));
  EXPECT_DOUBLE_EQ(work.WeightBytes(512), work.WeightBytes(1));

  const double context = 3000;  // Beyond the window.
  const Work decode = work.OfRow({.num_tokens = 1, .context = context, .has_logits = true});
  EXPECT_DOUBLE_EQ(decode.flops, 2 * (products + head) + full_position * context +
                                     sliding_position * shape.window);
}

// Every token chooses 8 of the 128 experts of 26B; a step of many tokens reads them all.
TEST(ModelWorkTest, TokensShareTheExpertsOfAStep) {
  const ModelShape shape = PublishedShape("26b").value();
  const ModelWork work = WorkOfShape("26b");
  const double expert = 3.0 * shape.hidden * shape.expert_intermediate * shape.num_layers;
  EXPECT_DOUBLE_EQ(work.expert_bytes, 2 * expert * shape.num_experts);
  EXPECT_DOUBLE_EQ(work.WeightBytes(1) - work.dense_bytes, 2 * expert * shape.top_k_experts);
  EXPECT_LT(work.WeightBytes(16) - work.dense_bytes, 16 * 2 * expert * shape.top_k_experts);
  EXPECT_NEAR(work.WeightBytes(1000), work.dense_bytes + work.expert_bytes, 1);
}

// Of E4B's 42 layers a prompt's tokens see 24, but for the last one (ARCHITECTURE.md, 16).
TEST(ModelWorkTest, APromptEndsWhereKeysAndValuesEnd) {
  const ModelWork work = WorkOfShape("e4b");
  EXPECT_GT(work.last_layers.flops_per_token, 0);
  const Work without = work.OfRow({.num_tokens = 100, .context = 50.5});
  const Work with = work.OfRow({.num_tokens = 100, .context = 50.5, .has_logits = true});
  const double last = work.last_layers.flops_per_token + work.flops_per_logits +
                      50.5 * (work.last_layers.flops_per_full_position +
                              work.last_layers.flops_per_sliding_position);
  EXPECT_DOUBLE_EQ(with.flops - without.flops, last);
  EXPECT_DOUBLE_EQ(with.bytes, without.bytes);
}

}  // namespace
}  // namespace facet::worker
