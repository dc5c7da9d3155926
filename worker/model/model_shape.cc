#include "worker/model/model_shape.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace facet::worker {
namespace {

using Json = nlohmann::ordered_json;

const ModelShape kPublished[] = {
    {.name = "e2b",
     .num_layers = 35,
     .full_every = 5,
     .hidden = 1536,
     .intermediate = 6144,
     .num_q_heads = 8,
     .num_kv_heads = 1,
     .window = 512,
     .num_shared = 20,
     .ple_size = 256,
     .context_tokens_max = 131072,
     .double_wide = true},
    {.name = "e4b",
     .num_layers = 42,
     .full_every = 6,
     .hidden = 2560,
     .intermediate = 10240,
     .num_q_heads = 8,
     .num_kv_heads = 2,
     .window = 512,
     .num_shared = 18,
     .ple_size = 256,
     .context_tokens_max = 131072},
    {.name = "26b",
     .num_layers = 30,
     .full_every = 6,
     .hidden = 2816,
     .intermediate = 2112,
     .num_q_heads = 16,
     .num_kv_heads = 8,
     .num_global_kv_heads = 2,
     .window = 1024,
     .num_experts = 128,
     .top_k_experts = 8,
     .expert_intermediate = 704,
     .context_tokens_max = 262144,
     .k_eq_v = true},
    {.name = "31b",
     .num_layers = 60,
     .full_every = 6,
     .hidden = 5376,
     .intermediate = 21504,
     .num_q_heads = 32,
     .num_kv_heads = 16,
     .num_global_kv_heads = 4,
     .window = 1024,
     .context_tokens_max = 262144,
     .k_eq_v = true},
};

// Whether every kind of layer among the shared ones has an owner before them.
bool SharingIsValid(const std::vector<bool>& full, int32_t num_shared) {
  const auto first_shared = full.end() - num_shared;
  for (const bool kind : {false, true}) {
    if (std::find(first_shared, full.end(), kind) != full.end() &&
        std::find(full.begin(), first_shared, kind) == first_shared) {
      return false;
    }
  }
  return true;
}

Json OrNull(int32_t value) { return value == 0 ? Json(nullptr) : Json(value); }

}  // namespace

std::vector<bool> ModelShape::FullLayers() const {
  std::vector<bool> full(num_layers);
  for (int32_t i = 0; i < num_layers; ++i) full[i] = (i + 1) % full_every == 0;
  full[num_layers - 1] = true;
  return full;
}

StatusOr<ModelShape> PublishedShape(std::string_view name) {
  for (const ModelShape& shape : kPublished) {
    if (shape.name == name) return shape;
  }
  return InvalidArgument("the shape is ", name, "; e2b, e4b, 26b and 31b are published");
}

StatusOr<ModelShape> WithLayers(const ModelShape& shape, int32_t num_layers) {
  if (num_layers < 2 || num_layers > shape.num_layers) {
    return InvalidArgument("layers is ", num_layers, "; ", shape.name, " has 2 to ",
                           shape.num_layers);
  }
  ModelShape smaller = shape;
  smaller.num_layers = num_layers;
  smaller.num_shared = shape.num_shared * num_layers / shape.num_layers;
  while (!SharingIsValid(smaller.FullLayers(), smaller.num_shared)) --smaller.num_shared;
  return smaller;
}

std::string ConfigJson(const ModelShape& shape) {
  Json layer_types = Json::array();
  for (const bool full : shape.FullLayers()) {
    layer_types.push_back(full ? "full_attention" : "sliding_attention");
  }
  const bool has_experts = shape.num_experts > 0;
  const bool large = shape.ple_size == 0;
  const Json text = {
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"attention_k_eq_v", shape.k_eq_v},
      {"bos_token_id", 2},
      {"dtype", "bfloat16"},
      {"enable_moe_block", has_experts},
      {"eos_token_id", 1},
      {"final_logit_softcapping", 30.0},
      {"global_head_dim", shape.global_head_dim},
      {"head_dim", shape.head_dim},
      {"hidden_activation", "gelu_pytorch_tanh"},
      {"hidden_size", shape.hidden},
      {"hidden_size_per_layer_input", shape.ple_size},
      {"initializer_range", 0.02},
      {"intermediate_size", shape.intermediate},
      {"layer_types", layer_types},
      {"max_position_embeddings", shape.context_tokens_max},
      {"model_type", "gemma4_text"},
      {"moe_intermediate_size", OrNull(shape.expert_intermediate)},
      {"num_attention_heads", shape.num_q_heads},
      {"num_experts", OrNull(shape.num_experts)},
      {"num_global_key_value_heads", OrNull(shape.num_global_kv_heads)},
      {"num_hidden_layers", shape.num_layers},
      {"num_key_value_heads", shape.num_kv_heads},
      {"num_kv_shared_layers", shape.num_shared},
      {"pad_token_id", 0},
      {"rms_norm_eps", 1e-6},
      {"rope_parameters",
       {{"full_attention",
         {{"partial_rotary_factor", 0.25}, {"rope_theta", 1e6}, {"rope_type", "proportional"}}},
        {"sliding_attention", {{"rope_theta", 1e4}, {"rope_type", "default"}}}}},
      {"sliding_window", shape.window},
      {"tie_word_embeddings", true},
      {"top_k_experts", OrNull(shape.top_k_experts)},
      {"use_bidirectional_attention", large ? Json("vision") : Json(nullptr)},
      {"use_cache", true},
      {"use_double_wide_mlp", shape.double_wide},
      {"vocab_size", shape.vocab},
      {"vocab_size_per_layer_input", shape.vocab}};
  return Json{{"architectures", {"Gemma4ForConditionalGeneration"}},
              {"audio_config", nullptr},
              {"audio_token_id", 258881},
              {"boa_token_id", 256000},
              {"boi_token_id", 255999},
              {"dtype", "bfloat16"},
              {"eoa_token_index", 258883},
              {"eoi_token_id", 258882},
              {"eos_token_id", {1, 106}},
              {"image_token_id", 258880},
              {"initializer_range", 0.02},
              {"model_type", "gemma4"},
              {"text_config", text},
              {"tie_word_embeddings", true},
              {"transformers_version", "5.5.0.dev0"},
              {"video_token_id", 258884},
              {"vision_config", nullptr},
              {"vision_soft_tokens_per_image", 280}}
             .dump(2) +
         "\n";
}

std::string GenerationConfigJson() {
  return Json{{"bos_token_id", 2},
              {"do_sample", true},
              {"eos_token_id", {1, 106, 50}},
              {"pad_token_id", 0},
              {"temperature", 1.0},
              {"top_k", 64},
              {"top_p", 0.95},
              {"transformers_version", "5.5.0.dev0"}}
             .dump(2) +
         "\n";
}

}  // namespace facet::worker
