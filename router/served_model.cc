#include "router/served_model.h"

#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"

namespace facet::router {
namespace {

using nlohmann::json;

StatusOr<json> ParseObject(const std::string& path, const std::string& text) {
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded() || !value.is_object()) {
    return InvalidArgument(path, " is not a JSON object");
  }
  return value;
}

// eos_token_id is a number, a list of numbers, or absent.
Status ReadStopTokenIds(const json& object, const std::string& path, ServedModel& model) {
  const auto found = object.find("eos_token_id");
  if (found == object.end() || found->is_null()) return absl::OkStatus();
  const json ids = found->is_array() ? *found : json::array({*found});
  model.stop_token_ids.clear();
  for (const json& token_id : ids) {
    if (!token_id.is_number_integer() || token_id.get<int64_t>() < 0 ||
        token_id.get<int64_t>() >= model.vocab) {
      return InvalidArgument(path, ": eos_token_id has ", token_id.dump(), "; ids are from 0 to ",
                             model.vocab - 1);
    }
    model.stop_token_ids.push_back(token_id.get<int32_t>());
  }
  return absl::OkStatus();
}

StatusOr<int32_t> PositiveField(const json& object, const char* key, const std::string& path) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer() || found->get<int64_t>() < 1 ||
      found->get<int64_t>() > INT32_MAX) {
    return InvalidArgument(path, ": ", key, " is missing or no positive integer");
  }
  return found->get<int32_t>();
}

// The shape decides between the two published chat templates: small models have per-layer
// embeddings.
TemplateVariant VariantByShape(const json& text_config) {
  const auto found = text_config.find("hidden_size_per_layer_input");
  const bool small = found != text_config.end() && found->is_number_integer() && *found > 0;
  return small ? TemplateVariant::kSmall : TemplateVariant::kLarge;
}

Status ReadConfig(const v1::ModelConfig& config, ServedModel& model) {
  const std::string path = config.directory() + "/config.json";
  FACET_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  FACET_ASSIGN_OR_RETURN(const json root, ParseObject(path, text));
  const json& text_config =
      root.contains("text_config") && root["text_config"].is_object() ? root["text_config"] : root;
  model.config_digest = Sha256Hex(text);
  FACET_ASSIGN_OR_RETURN(model.vocab, PositiveField(text_config, "vocab_size", path));
  FACET_ASSIGN_OR_RETURN(model.context_tokens_max,
                         PositiveField(text_config, "max_position_embeddings", path));
  FACET_RETURN_IF_ERROR(ReadStopTokenIds(text_config, path, model));
  FACET_RETURN_IF_ERROR(ReadStopTokenIds(root, path, model));
  model.template_variant = VariantByShape(text_config);
  if (!config.chat_template().empty()) {
    model.template_variant =
        config.chat_template() == "small" ? TemplateVariant::kSmall : TemplateVariant::kLarge;
    return absl::OkStatus();
  }
  const DetectedTemplate detected = DetectTemplate(config.directory(), model.template_variant);
  model.template_variant = detected.variant;
  if (!detected.warning.empty()) {
    Log(kWarning, "chat template", {{"model", config.name()}, {"warning", detected.warning}});
  }
  return absl::OkStatus();
}

Status ReadGenerationConfig(const v1::ModelConfig& config, ServedModel& model) {
  v1::Sampling& defaults = model.sampling_defaults;
  defaults.set_temperature(1);
  defaults.set_top_k(64);
  defaults.set_top_p(0.95F);
  defaults.set_min_p(0);
  defaults.set_presence_penalty(0);
  defaults.set_frequency_penalty(0);
  defaults.set_repetition_penalty(1);
  const std::string path = config.directory() + "/generation_config.json";
  if (!std::filesystem::exists(path)) return absl::OkStatus();
  FACET_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  FACET_ASSIGN_OR_RETURN(const json root, ParseObject(path, text));
  const auto read = [&root](const char* key, float fallback) {
    const auto found = root.find(key);
    return found != root.end() && found->is_number() ? found->get<float>() : fallback;
  };
  defaults.set_temperature(read("temperature", defaults.temperature()));
  defaults.set_top_k(static_cast<int32_t>(read("top_k", static_cast<float>(defaults.top_k()))));
  defaults.set_top_p(read("top_p", defaults.top_p()));
  defaults.set_repetition_penalty(read("repetition_penalty", defaults.repetition_penalty()));
  // transformers: without sampling the most likely token is taken.
  if (root.contains("do_sample") && root["do_sample"] == false) defaults.set_temperature(0);
  return ReadStopTokenIds(root, path, model);
}

Status ReadTokenizer(const v1::ModelConfig& config, ServedModel& model) {
  const std::string path = config.directory() + "/tokenizer.json";
  if (!std::filesystem::exists(path)) {
    Log(kWarning, "no tokenizer", {{"model", config.name()}, {"path", path}});
    return absl::OkStatus();
  }
  FACET_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  model.tokenizer_digest = Sha256Hex(text);
  StatusOr<Tokenizer> tokenizer = Tokenizer::Load(path);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  if (tokenizer->vocab_size() > model.vocab) {
    return InvalidArgument(path, " has ", tokenizer->vocab_size(), " ids; config.json allows ",
                           model.vocab);
  }
  model.tokenizer = std::move(*tokenizer);
  return absl::OkStatus();
}

}  // namespace

StatusOr<ServedModel> ServedModel::Load(const v1::ModelConfig& config) {
  ServedModel model;
  model.name = config.name();
  try {
    FACET_RETURN_IF_ERROR(ReadConfig(config, model));
    FACET_RETURN_IF_ERROR(ReadGenerationConfig(config, model));
    FACET_RETURN_IF_ERROR(ReadTokenizer(config, model));
  } catch (const std::exception& error) {
    return InvalidArgument("model ", config.name(), ": ", error.what());
  }
  return model;
}

}  // namespace facet::router
