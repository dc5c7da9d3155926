#include "worker/model/gemma4_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/file.h"
#include "kernels/embedding.h"
#include "kernels/misreading.h"

namespace facet::worker {
namespace {

using kernels::Misread;
using kernels::Misreading;
using nlohmann::json;

constexpr int64_t kSizeMax = 1 << 24;  // No dimension of a real model is near it.

// Reads keys of one JSON object and remembers the first that is wrong.
class KeyReader {
 public:
  KeyReader(const json& object, std::string path) : object_(object), path_(std::move(path)) {}

  bool Has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }

  // The value, fallback if the key is absent or null; without a fallback the key is required.
  int32_t Int(const char* key, std::optional<int64_t> fallback, int64_t least, int64_t most) {
    if (!Has(key)) {
      if (!fallback.has_value()) Fail(key, "is missing");
      return static_cast<int32_t>(fallback.value_or(least));
    }
    const json& value = object_[key];
    if (!value.is_number_integer() || value.get<double>() < static_cast<double>(least) ||
        value.get<double>() > static_cast<double>(most)) {
      Fail(key,
           StrCat("is ", value.dump(), "; it must be a whole number in [", least, ", ", most, "]"));
      return static_cast<int32_t>(least);
    }
    return static_cast<int32_t>(value.get<int64_t>());
  }

  double Number(const char* key, double fallback, double above, double most) {
    if (!Has(key)) return fallback;
    const json& value = object_[key];
    if (!value.is_number() || !(value.get<double>() > above && value.get<double>() <= most)) {
      Fail(key, StrCat("is ", value.dump(), "; it must be above ", above, " and at most ", most));
      return fallback;
    }
    return value.get<double>();
  }

  bool Bool(const char* key, bool fallback) {
    if (!Has(key)) return fallback;
    if (!object_[key].is_boolean()) {
      Fail(key, StrCat("is ", object_[key].dump(), "; it must be true or false"));
      return fallback;
    }
    return object_[key].get<bool>();
  }

  std::string Text(const char* key, const char* fallback) {
    if (!Has(key)) return fallback;
    if (!object_[key].is_string()) {
      Fail(key, StrCat("is ", object_[key].dump(), "; it must be a string"));
      return fallback;
    }
    return object_[key].get<std::string>();
  }

  // One id, a list of ids, or nothing.
  std::vector<int32_t> Ids(const char* key) {
    std::vector<int32_t> ids;
    if (!Has(key)) return ids;
    const json& value = object_[key];
    for (const json& id : value.is_array() ? value : json::array({value})) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kSizeMax) {
        Fail(key, StrCat("holds ", id.dump(), "; ids are whole numbers from 0"));
        return ids;
      }
      ids.push_back(id.get<int32_t>());
    }
    return ids;
  }

  void Fail(const char* key, const std::string& what) {
    if (status_.ok()) status_ = InvalidArgument("config.json: ", path_, key, " ", what);
  }

  const json& object() const { return object_; }

  const Status& status() const { return status_; }

 private:
  const json& object_;
  const std::string path_;
  Status status_;
};

// What is not computed here and would change answers if it were ignored.
void RefuseUnknownArithmetic(KeyReader& text) {
  if (text.Bool("attention_bias", false))
    text.Fail("attention_bias", "is true; only false is served");
  const std::string activation = text.Text("hidden_activation", "gelu_pytorch_tanh");
  if (activation != "gelu_pytorch_tanh") {
    text.Fail("hidden_activation",
              StrCat("is \"", activation, "\"; only \"gelu_pytorch_tanh\" is served"));
  }
  const std::string bidirectional = text.Text("use_bidirectional_attention", "");
  if (!bidirectional.empty() && bidirectional != "vision") {
    text.Fail("use_bidirectional_attention",
              StrCat("is \"", bidirectional, "\"; null or \"vision\" are served"));
  }
}

// Which layers attend fully. Default: every sixth; the last always does.
std::vector<bool> ReadLayerTypes(KeyReader& text, int32_t num_layers) {
  std::vector<bool> full(num_layers);
  for (int32_t i = 0; i < num_layers; ++i) full[i] = (i + 1) % 6 == 0;
  if (text.Has("layer_types")) {
    const json& types = text.object()["layer_types"];
    if (!types.is_array() || static_cast<int32_t>(types.size()) != num_layers) {
      text.Fail("layer_types", StrCat("must list ", num_layers, " layers (num_hidden_layers)"));
      return full;
    }
    for (int32_t i = 0; i < num_layers; ++i) {
      if (types[i] != "full_attention" && types[i] != "sliding_attention") {
        text.Fail("layer_types", StrCat("[", i, "] is ", types[i].dump(),
                                        "; it must be sliding_attention or full_attention"));
        return full;
      }
      full[i] = types[i] == "full_attention";
    }
  }
  full[num_layers - 1] = true;
  if (Misread(Misreading::kLayerTypesShifted))
    std::rotate(full.begin(), full.begin() + 1, full.end());
  return full;
}

RopeShape ReadRope(KeyReader& text, const char* kind, const RopeShape& published) {
  if (!text.Has("rope_parameters")) return published;
  const json& all = text.object()["rope_parameters"];
  if (!all.is_object() || !all.contains(kind) || !all[kind].is_object()) {
    text.Fail("rope_parameters", StrCat("has no entry ", kind));
    return published;
  }
  KeyReader reader(all[kind], StrCat("rope_parameters.", kind, "."));
  RopeShape rope;
  const std::string type = reader.Text("rope_type", "default");
  if (type != "default" && type != "proportional") {
    reader.Fail("rope_type", StrCat("is \"", type, "\"; default and proportional are served"));
  }
  rope.proportional = type == "proportional";
  rope.theta = reader.Number("rope_theta", published.theta, 0, 1e12);
  rope.partial_rotary_factor = reader.Number("partial_rotary_factor", 1, 0, 1);
  rope.factor = reader.Number("factor", 1, 0, 1e6);
  if (!reader.status().ok()) text.Fail("", MessageOf(reader.status()));
  return rope;
}

// head_dim and num_key_value_heads of each layer, from per_layer_config or the two global keys.
void ReadHeads(KeyReader& text, Gemma4Config& config) {
  const int32_t head_dim = text.Int("head_dim", 256, 2, 4096);
  const int32_t kv_heads = text.Int("num_key_value_heads", std::nullopt, 1, kSizeMax);
  const bool k_eq_v = text.Bool("attention_k_eq_v", false);
  const json* per_layer =
      text.Has("per_layer_config") ? &text.object()["per_layer_config"] : nullptr;
  if (per_layer != nullptr && !per_layer->is_object()) {
    text.Fail("per_layer_config", "is not an object");
    return;
  }
  const int32_t global_head_dim = text.Int("global_head_dim", 512, 2, 4096);
  const int32_t global_kv_heads =
      k_eq_v && !Misread(Misreading::kGlobalKvHeadsIgnored)
          ? text.Int("num_global_key_value_heads", kv_heads, 1, kSizeMax)
          : kv_heads;
  for (LayerShape& layer : config.layers) {
    layer.head_dim = per_layer == nullptr && layer.full ? global_head_dim : head_dim;
    layer.num_kv_heads = per_layer == nullptr && layer.full ? global_kv_heads : kv_heads;
    layer.k_eq_v = k_eq_v && layer.full;
  }
  if (per_layer == nullptr) return;
  for (const auto& [key, entry] : per_layer->items()) {
    char* end = nullptr;
    const int64_t index = std::strtoll(key.c_str(), &end, 10);
    if (key.empty() || *end != '\0' || index < 0 || index >= config.num_layers ||
        !entry.is_object()) {
      text.Fail("per_layer_config",
                StrCat("has an entry \"", key, "\"; layers are 0 to ", config.num_layers - 1));
      return;
    }
    KeyReader reader(entry, StrCat("per_layer_config.", key, "."));
    LayerShape& layer = config.layers[index];
    layer.head_dim = reader.Int("head_dim", head_dim, 2, 4096);
    layer.num_kv_heads = reader.Int("num_key_value_heads", kv_heads, 1, kSizeMax);
    for (const auto& [attribute, value] : entry.items()) {
      if (attribute != "head_dim" && attribute != "num_key_value_heads") {
        reader.Fail(attribute.c_str(), "is not served as a per-layer attribute");
      }
    }
    if (!reader.status().ok()) text.Fail("", MessageOf(reader.status()));
  }
}

// Who reads whose keys and values: the last owning layer of the same kind.
void ReadSharing(KeyReader& text, Gemma4Config& config) {
  const int32_t num_shared = text.Int("num_kv_shared_layers", 0, 0, config.num_layers - 1);
  const int32_t first_shared = config.num_layers - num_shared;
  int32_t donors[2] = {-1, -1};
  for (int32_t i = 0; i < first_shared; ++i) {
    int32_t& donor = donors[config.layers[i].full ? 1 : 0];
    if (donor < 0 || !Misread(Misreading::kSharedLayersReadFirstDonor)) donor = i;
    config.layers[i].kv_layer = i;
  }
  for (int32_t i = first_shared; i < config.num_layers; ++i) {
    LayerShape& layer = config.layers[i];
    layer.shares_kv = true;
    layer.kv_layer = donors[layer.full ? 1 : 0];
    if (layer.kv_layer < 0) {
      text.Fail(
          "num_kv_shared_layers",
          StrCat("is ", num_shared, ": no layer before layer ", first_shared, " owns keys and ",
                 "values for the ", layer.full ? "full" : "sliding", " attention of layer ", i));
      return;
    }
    const LayerShape& donor = config.layers[layer.kv_layer];
    if (donor.head_dim != layer.head_dim || donor.num_kv_heads != layer.num_kv_heads) {
      text.Fail("num_kv_shared_layers", StrCat("makes layer ", i, " share with layer ",
                                               layer.kv_layer, " of another head shape"));
    }
  }
  const bool double_wide =
      text.Bool("use_double_wide_mlp", false) && !Misread(Misreading::kDoubleWideIgnored);
  const int32_t intermediate = text.Int("intermediate_size", std::nullopt, 2, kSizeMax);
  for (LayerShape& layer : config.layers) {
    layer.intermediate = double_wide && layer.shares_kv ? 2 * intermediate : intermediate;
  }
  if (!Misread(Misreading::kSharedLayersOwnKv)) return;
  for (int32_t i = first_shared; i < config.num_layers; ++i) {
    config.layers[i].shares_kv = false;
    config.layers[i].kv_layer = i;
  }
}

void ReadExperts(KeyReader& text, Gemma4Config& config) {
  if (!text.Bool("enable_moe_block", false)) return;
  config.num_experts = text.Int("num_experts", std::nullopt, 1, 65536);
  config.top_k_experts = text.Int("top_k_experts", std::nullopt, 1, config.num_experts);
  config.expert_intermediate = text.Int("moe_intermediate_size", std::nullopt, 2, kSizeMax);
}

void CheckShape(KeyReader& text, const Gemma4Config& config) {
  for (int32_t i = 0; i < config.num_layers; ++i) {
    const LayerShape& layer = config.layers[i];
    if (config.num_q_heads % layer.num_kv_heads != 0) {
      text.Fail("num_attention_heads", StrCat("is ", config.num_q_heads, ", not a multiple of the ",
                                              layer.num_kv_heads, " KV heads of layer ", i));
    }
    if (layer.head_dim % 16 != 0) {
      text.Fail("head_dim",
                StrCat("is ", layer.head_dim, " in layer ", i, "; it must be a multiple of 16"));
    }
    if (config.num_q_heads / layer.num_kv_heads > 64) {
      text.Fail("num_attention_heads", "is over 64 for each KV head");
    }
  }
  for (const int32_t size : {config.hidden, config.layers[0].intermediate, config.ple_size,
                             config.expert_intermediate}) {
    if (size % 2 != 0) text.Fail("hidden_size", "and the other widths must be even");
  }
}

StatusOr<json> ParseJson(std::string_view text, const char* name) {
  json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return InvalidArgument(name, " is not a JSON object");
  return parsed;
}

}  // namespace

int32_t Gemma4Config::kv_layers_end() const {
  int32_t end = num_layers;
  while (end > 0 && layers[end - 1].shares_kv) --end;
  return end;
}

std::string Gemma4Config::ShapeName() const {
  if (has_experts()) return "26B-A4B-like";
  if (!has_ple()) return "31B-like";
  const bool double_wide = layers.front().intermediate != layers.back().intermediate;
  return double_wide ? "E2B-like" : "E4B-like";
}

StatusOr<Gemma4Config> ParseGemma4Config(std::string_view config_json) {
  FACET_ASSIGN_OR_RETURN(const json root, ParseJson(config_json, "config.json"));
  KeyReader top(root, "");
  const std::string model_type = top.Text("model_type", "");
  Gemma4Config config;
  config.flat = model_type == "gemma4_text";
  if (!config.flat && model_type != "gemma4") {
    return InvalidArgument("config.json: model_type is \"", model_type,
                           "\"; gemma4 and gemma4_text are served");
  }
  if (!config.flat && (!root.contains("text_config") || !root["text_config"].is_object())) {
    return InvalidArgument("config.json: text_config is missing or not an object");
  }
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (top.Has(key)) top.Fail(key, "is set; quantised weights are not served yet");
  }
  KeyReader text(config.flat ? root : root["text_config"], config.flat ? "" : "text_config.");

  RefuseUnknownArithmetic(text);
  config.num_layers = text.Int("num_hidden_layers", std::nullopt, 1, 4096);
  config.hidden = text.Int("hidden_size", std::nullopt, 2, kSizeMax);
  config.num_q_heads = text.Int("num_attention_heads", std::nullopt, 1, 4096);
  config.vocab = text.Int("vocab_size", std::nullopt, 1, kSizeMax);
  const bool ple_null = text.object().contains("hidden_size_per_layer_input") &&
                        text.object()["hidden_size_per_layer_input"].is_null();
  config.ple_size = ple_null ? 0 : text.Int("hidden_size_per_layer_input", 256, 0, 65536);
  config.vocab_ple = text.Int("vocab_size_per_layer_input", 262144, 1, kSizeMax);
  config.eps = static_cast<float>(text.Number("rms_norm_eps", 1e-6, 0, 1));
  config.softcap = static_cast<float>(text.Number("final_logit_softcapping", 0, 0, 1e6));
  config.window = text.Int("sliding_window", 512, 1, kSizeMax);
  config.context_tokens_max = text.Int("max_position_embeddings", 131072, 1, 1 << 30);
  config.sliding_rope = ReadRope(text, "sliding_attention", RopeShape{.theta = 10000});
  config.full_rope =
      ReadRope(text, "full_attention",
               RopeShape{.theta = 1000000, .proportional = true, .partial_rotary_factor = 0.25});
  if (Misread(Misreading::kRopeThetasSwapped)) {
    std::swap(config.sliding_rope.theta, config.full_rope.theta);
  }
  if (Misread(Misreading::kRopePartialIgnored)) config.full_rope.partial_rotary_factor = 1;
  if (!text.status().ok()) return text.status();

  config.layers.resize(config.num_layers);
  const std::vector<bool> full = ReadLayerTypes(text, config.num_layers);
  for (int32_t i = 0; i < config.num_layers; ++i) config.layers[i].full = full[i];
  ReadHeads(text, config);
  ReadSharing(text, config);
  ReadExperts(text, config);
  if (!text.status().ok()) return text.status();
  CheckShape(text, config);

  config.pad_id = text.Int("pad_token_id", 0, 0, config.vocab - 1);
  config.bos_id = text.Int("bos_token_id", 2, 0, kSizeMax);
  config.tied_head = top.Bool("tie_word_embeddings", true);
  config.eos_ids = (top.Has("eos_token_id") ? top : text).Ids("eos_token_id");
  if (!config.flat) {
    for (const char* key : {"image_token_id", "audio_token_id", "video_token_id"}) {
      for (const int32_t id : top.Ids(key)) config.placeholder_ids.push_back(id);
    }
    if (config.placeholder_ids.size() > kernels::kPlaceholdersMax) {
      return InvalidArgument("config.json names ", config.placeholder_ids.size(),
                             " ids of images, audio and video; at most ",
                             kernels::kPlaceholdersMax);
    }
  }
  if (!top.status().ok()) return top.status();
  if (!text.status().ok()) return text.status();
  return config;
}

StatusOr<Gemma4Config> LoadGemma4Config(const std::string& directory) {
  FACET_ASSIGN_OR_RETURN(const std::string text, ReadFile(directory + "/config.json"));
  StatusOr<Gemma4Config> config = ParseGemma4Config(text);
  if (!config.ok()) return Annotate(config.status(), directory);
  return config;
}

StatusOr<GenerationDefaults> LoadGenerationDefaults(const std::string& directory,
                                                    const Gemma4Config& config) {
  GenerationDefaults defaults;
  std::set<int32_t> stops(config.eos_ids.begin(), config.eos_ids.end());
  const StatusOr<std::string> text = ReadFile(directory + "/generation_config.json");
  if (text.ok()) {
    FACET_ASSIGN_OR_RETURN(const json root, ParseJson(*text, "generation_config.json"));
    KeyReader reader(root, "generation_config: ");
    defaults.temperature = static_cast<float>(reader.Number("temperature", 1.0, -1e-9, 2));
    defaults.top_k = reader.Int("top_k", 64, 0, kSizeMax);
    defaults.top_p = static_cast<float>(reader.Number("top_p", 0.95, 0, 1));
    for (const int32_t id : reader.Ids("eos_token_id")) stops.insert(id);
    if (!reader.status().ok()) return reader.status();
  }
  for (const int32_t id : stops) {
    if (id < config.vocab) defaults.stop_ids.push_back(id);
  }
  return defaults;
}

std::vector<float> InverseFrequencies(const RopeShape& rope, int32_t head_dim) {
  const int32_t half = head_dim / 2;
  const int32_t turning =
      rope.proportional
          ? static_cast<int32_t>(std::floor(rope.partial_rotary_factor * head_dim / 2))
          : half;
  std::vector<float> frequencies(half);
  for (int32_t i = 0; i < std::min(turning, half); ++i) {
    int32_t divisor = head_dim;
    if (rope.proportional && (Misread(Misreading::kRopeClassicPartial) ||
                              Misread(Misreading::kRopeExponentOverRotated))) {
      divisor = 2 * turning;
    }
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(divisor);
    const auto power = static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
    frequencies[i] = 1.0F / power;
    if (rope.proportional) frequencies[i] /= static_cast<float>(rope.factor);
  }
  return frequencies;
}

}  // namespace facet::worker
