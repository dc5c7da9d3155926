// config.json of a Gemma 4 directory, in both layouts that transformers writes: nested
// (Gemma4ForConditionalGeneration, text_config) and flat (Gemma4ForCausalLM), with or without
// per_layer_config. Every value is honoured or refused by name; nothing is assumed.
// Source: reference texts are transformers 5.23.0, configuration_gemma4.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace facet::worker {

// One layer as the config says it is.
struct LayerShape {
  bool full = false;  // Full attention; otherwise sliding.
  bool shares_kv = false;
  int32_t kv_layer = 0;  // Whose keys and values it reads: itself, or its donor.
  int32_t head_dim = 0;
  int32_t num_kv_heads = 0;
  bool k_eq_v = false;  // V is the raw K projection: no v_proj.
  int32_t intermediate = 0;
};

// Rotary embedding of one kind of layer.
struct RopeShape {
  double theta = 0;
  bool proportional = false;  // Only partial_rotary_factor of the pairs turn.
  double partial_rotary_factor = 1;
  double factor = 1;  // Divides the frequencies of proportional RoPE.
};

struct Gemma4Config {
  bool flat = false;  // Names begin with "model." instead of "model.language_model.".
  int32_t hidden = 0;
  int32_t num_layers = 0;
  int32_t num_q_heads = 0;
  int32_t vocab = 0;
  int32_t vocab_ple = 0;
  int32_t ple_size = 0;  // 0: no per-layer embeddings.
  float eps = 0;
  float softcap = 0;   // 0: none.
  int32_t window = 0;  // Of sliding layers.
  int32_t context_tokens_max = 0;
  int32_t num_experts = 0;  // 0: dense.
  int32_t top_k_experts = 0;
  int32_t expert_intermediate = 0;
  bool tied_head = true;
  int32_t pad_id = 0;
  int32_t bos_id = 2;
  std::vector<int32_t> eos_ids;          // Of config.json alone.
  std::vector<int32_t> placeholder_ids;  // Image, audio, video: embedded as pad in text.
  RopeShape sliding_rope;
  RopeShape full_rope;
  std::vector<LayerShape> layers;

  bool has_ple() const { return ple_size > 0; }

  bool has_experts() const { return num_experts > 0; }

  // Behind the last layer that stores keys and values: from here on only logits are at stake.
  int32_t kv_layers_end() const;

  const RopeShape& rope(bool full) const { return full ? full_rope : sliding_rope; }

  // Prefix of the text tensors' names.
  const char* prefix() const { return flat ? "model." : "model.language_model."; }

  // "E2B-like", "26B-A4B-like", …: which of the published shapes the features name.
  std::string ShapeName() const;
};

// INVALID_ARGUMENT names the key, its value and what is possible.
StatusOr<Gemma4Config> ParseGemma4Config(std::string_view config_json);

// Of a directory's config.json.
StatusOr<Gemma4Config> LoadGemma4Config(const std::string& directory);

// What generation_config.json says, or its absence leaves: published defaults are 1.0, 64, 0.95.
struct GenerationDefaults {
  float temperature = 1.0F;
  int32_t top_k = 64;
  float top_p = 0.95F;
  std::vector<int32_t> stop_ids;  // Union with config.json's eos_token_id, ascending.
};

StatusOr<GenerationDefaults> LoadGenerationDefaults(const std::string& directory,
                                                    const Gemma4Config& config);

// Frequencies of the pairs (i, i + head_dim / 2), by the float32 recipe of transformers: the
// exponent and the power are rounded to float before the division. 0 for pairs that do not turn.
std::vector<float> InverseFrequencies(const RopeShape& rope, int32_t head_dim);

}  // namespace facet::worker
