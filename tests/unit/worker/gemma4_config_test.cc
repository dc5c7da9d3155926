// config.json: both layouts, every default, and what is refused, by name.
#include "worker/model/gemma4_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "worker/model/model_shape.h"
#include "worker/model/weights.h"

namespace facet::worker {
namespace {

using nlohmann::json;

json Published(const char* shape) { return json::parse(ConfigJson(*PublishedShape(shape))); }

struct PublishedCase {
  const char* shape;
  const char* shape_name;
  int64_t parameters;  // Text total of reference/gemma4.md 1.3.
};

class PublishedShapeTest : public testing::TestWithParam<PublishedCase> {};

TEST_P(PublishedShapeTest, HasThePublishedNumberOfParameters) {
  const StatusOr<Gemma4Config> config = ParseGemma4Config(Published(GetParam().shape).dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ShapeName(), GetParam().shape_name);
  int64_t parameters = 0;
  for (const ExpectedTensor& tensor : ExpectedTensors(*config)) {
    int64_t size = 1;
    for (const int64_t dim : tensor.shape) size *= dim;
    parameters += size;
  }
  EXPECT_EQ(parameters, GetParam().parameters);
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         PublishedShapeTest,
                         testing::Values(PublishedCase{"e2b", "E2B-like", 4'628'569'379},
                                         PublishedCase{"e4b", "E4B-like", 7'463'013'418},
                                         PublishedCase{"26b", "26B-A4B-like", 25'233'141'790},
                                         PublishedCase{"31b", "31B-like", 30'697'345'340}),
                         [](const auto& shape) { return std::string(shape.param.shape); });

TEST(Gemma4ConfigTest, DonorsAreTheLastOwningLayersOfTheirKind) {
  const Gemma4Config e2b = *ParseGemma4Config(Published("e2b").dump());
  EXPECT_EQ(e2b.layers[15].kv_layer, 13);
  EXPECT_EQ(e2b.layers[19].kv_layer, 14);
  EXPECT_EQ(e2b.layers[14].intermediate, 6144);
  EXPECT_EQ(e2b.layers[15].intermediate, 12288);
  const Gemma4Config e4b = *ParseGemma4Config(Published("e4b").dump());
  EXPECT_EQ(e4b.layers[24].kv_layer, 22);
  EXPECT_EQ(e4b.layers[29].kv_layer, 23);
}

// What one key changes, on the E4B text config.
struct ChangeCase {
  const char* name;
  const char* change;  // JSON merge patch (RFC 7396) of the whole file.
  const char* error;   // Part of the message; empty if it is accepted.
};

void PrintTo(const ChangeCase& change, std::ostream* out) { *out << change.name; }

class ConfigChangeTest : public testing::TestWithParam<ChangeCase> {};

TEST_P(ConfigChangeTest, IsAcceptedOrRefusedByName) {
  json config = Published("e4b");
  config.merge_patch(json::parse(GetParam().change));
  const StatusOr<Gemma4Config> parsed = ParseGemma4Config(config.dump());
  if (*GetParam().error == '\0') {
    EXPECT_TRUE(parsed.ok()) << parsed.status();
  } else {
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(MessageOf(parsed.status()).find(GetParam().error), std::string::npos)
        << parsed.status();
  }
}

const ChangeCase kChanges[] = {
    {"unchanged", R"({})", ""},
    {"other_model", R"({"model_type": "llama"})", R"(model_type is "llama")"},
    {"quantised", R"({"quantization_config": {"bits": 4}})", "quantization_config is set"},
    {"bias", R"({"text_config": {"attention_bias": true}})", "attention_bias is true"},
    {"relu", R"({"text_config": {"hidden_activation": "relu"}})", R"(hidden_activation is "relu")"},
    {"bidirectional_all", R"({"text_config": {"use_bidirectional_attention": "all"}})",
     "use_bidirectional_attention"},
    {"bidirectional_vision", R"({"text_config": {"use_bidirectional_attention": "vision"}})", ""},
    {"no_layers", R"({"text_config": {"num_hidden_layers": 0}})", "num_hidden_layers is 0"},
    {"layer_count", R"({"text_config": {"num_hidden_layers": 41}})", "layer_types must list 41"},
    {"hidden_missing", R"({"text_config": {"hidden_size": null}})", "hidden_size is missing"},
    {"negative_eps", R"({"text_config": {"rms_norm_eps": -1}})", "rms_norm_eps is -1"},
    {"kv_heads", R"({"text_config": {"num_key_value_heads": 3}})", "not a multiple of the 3 KV"},
    {"all_shared", R"({"text_config": {"num_kv_shared_layers": 41}})",
     "no layer before layer 1 owns keys"},
    {"rope_type",
     R"({"text_config": {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}})",
     R"(rope_type is "yarn")"},
    {"rope_missing", R"({"text_config": {"rope_parameters": {"full_attention": null}}})",
     "rope_parameters has no entry full_attention"},
    {"no_softcap", R"({"text_config": {"final_logit_softcapping": null}})", ""},
    {"expert_alias",
     R"({"text_config": {"enable_moe_block": true, "num_experts": 8, "top_k_experts": 2,
      "expert_intermediate_size": 64}})",
     "moe_intermediate_size is missing"},
    {"top_k_over_experts", R"({"text_config": {"enable_moe_block": true, "num_experts": 8,
      "top_k_experts": 9, "moe_intermediate_size": 64}})",
     "top_k_experts is 9"},
    {"text_config_missing", R"({"text_config": null})", "text_config is missing"},
};

INSTANTIATE_TEST_SUITE_P(Changes,
                         ConfigChangeTest,
                         testing::ValuesIn(kChanges),
                         [](const auto& change) { return std::string(change.param.name); });

TEST(Gemma4ConfigTest, AbsentKeysTakeTransformersDefaults) {
  json config = Published("e4b");
  for (const char* key :
       {"head_dim", "global_head_dim", "sliding_window", "rms_norm_eps", "rope_parameters",
        "layer_types", "use_double_wide_mlp", "attention_k_eq_v", "final_logit_softcapping",
        "hidden_size_per_layer_input", "vocab_size_per_layer_input"}) {
    config["text_config"].erase(key);
  }
  const Gemma4Config parsed = *ParseGemma4Config(config.dump());
  EXPECT_EQ(parsed.layers[0].head_dim, 256);
  EXPECT_EQ(parsed.layers[5].head_dim, 512);
  EXPECT_TRUE(parsed.layers[5].full);
  EXPECT_EQ(parsed.window, 512);
  EXPECT_FLOAT_EQ(parsed.eps, 1e-6F);
  EXPECT_EQ(parsed.softcap, 0);
  EXPECT_EQ(parsed.ple_size, 256);
  EXPECT_EQ(parsed.vocab_ple, 262144);
  EXPECT_EQ(parsed.full_rope.theta, 1000000);
  EXPECT_EQ(parsed.full_rope.partial_rotary_factor, 0.25);
}

TEST(Gemma4ConfigTest, GlobalKvHeadsCountOnlyWhereKeysAreValues) {
  json config = Published("26b");
  EXPECT_EQ(ParseGemma4Config(config.dump())->layers[5].num_kv_heads, 2);
  config["text_config"]["attention_k_eq_v"] = false;
  EXPECT_EQ(ParseGemma4Config(config.dump())->layers[5].num_kv_heads, 8);
  config["text_config"]["attention_k_eq_v"] = true;
  config["text_config"]["num_global_key_value_heads"] = nullptr;
  EXPECT_EQ(ParseGemma4Config(config.dump())->layers[5].num_kv_heads, 8);
}

TEST(Gemma4ConfigTest, PerLayerConfigReplacesTheGlobalKeys) {
  json config = Published("26b");
  config["text_config"]["per_layer_config"] = {
      {"05", {{"head_dim", 512}, {"num_key_value_heads", 4}}}};
  const Gemma4Config parsed = *ParseGemma4Config(config.dump());
  EXPECT_EQ(parsed.layers[5].head_dim, 512);
  EXPECT_EQ(parsed.layers[5].num_kv_heads, 4);
  EXPECT_EQ(parsed.layers[11].head_dim, 256);  // global_head_dim does not count any more.
  EXPECT_EQ(parsed.layers[11].num_kv_heads, 8);
}

TEST(Gemma4ConfigTest, ANullPerLayerInputMeansNone) {
  json config = Published("e4b");
  config["text_config"]["hidden_size_per_layer_input"] = nullptr;
  EXPECT_FALSE(ParseGemma4Config(config.dump())->has_ple());
}

TEST(Gemma4ConfigTest, TheLastLayerIsAlwaysFull) {
  json config = Published("31b");
  config["text_config"]["layer_types"][59] = "sliding_attention";
  EXPECT_TRUE(ParseGemma4Config(config.dump())->layers[59].full);
}

TEST(InverseFrequenciesTest, FollowTheFloatRecipe) {
  const std::vector<float> sliding = InverseFrequencies({.theta = 10000}, 256);
  EXPECT_EQ(sliding[0], 1);
  EXPECT_EQ(sliding[64], 1.0F / static_cast<float>(std::pow(10000.0, 0.5)));
  const std::vector<float> full = InverseFrequencies(
      {.theta = 1000000, .proportional = true, .partial_rotary_factor = 0.25, .factor = 2}, 512);
  EXPECT_EQ(full[0], 0.5F);
  EXPECT_NE(full[63], 0);
  EXPECT_EQ(full[64], 0);
  EXPECT_EQ(full.size(), 256U);
}

}  // namespace
}  // namespace facet::worker
