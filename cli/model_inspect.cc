#include "cli/model_inspect.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "text/chat_template.h"
#include "worker/kv/kv_cache.h"
#include "worker/model/gemma4.h"
#include "worker/model/safetensors.h"
#include "worker/model/weights.h"

namespace facet {
namespace {

using worker::Checkpoint;
using worker::ExpectedTensor;
using worker::Gemma4Config;
using Json = nlohmann::ordered_json;

constexpr int64_t kKvTokens[] = {1 << 10, 8 << 10, 32 << 10, 128 << 10};

const char* PartOf(std::string_view name) {
  const auto has = [name](std::string_view text) { return name.find(text) != name.npos; };
  if (has("embed_tokens_per_layer")) return "per-layer embedding table";
  if (has("embed_tokens") || has("lm_head")) return "embedding and head";
  if (has("per_layer_")) return "per-layer embedding projections";
  if (has(".experts.")) return "experts";
  if (has(".router.")) return "expert router";
  if (has("self_attn")) return "attention";
  if (has(".mlp.")) return "dense MLP";
  return "norms and scalars";
}

void CountParameters(ModelReport& report) {
  const Gemma4Config& config = report.config;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    const std::string part = PartOf(tensor.name);
    const int64_t elements = tensor.num_elements();
    auto found = std::find_if(report.parts.begin(), report.parts.end(),
                              [&](const ModelPart& known) { return known.name == part; });
    if (found == report.parts.end()) {
      report.parts.push_back({.name = part});
      found = report.parts.end() - 1;
    }
    found->parameters += elements;
    report.parameters += elements;
    if (part == "experts") {
      report.parameters_active += elements / config.num_experts * config.top_k_experts;
    } else if (part != "per-layer embedding table") {
      report.parameters_active += elements;
    }
  }
  std::stable_sort(report.parts.begin(), report.parts.end(),
                   [](const auto& a, const auto& b) { return a.parameters > b.parameters; });
}

void ReadWeights(ModelReport& report) {
  const StatusOr<Checkpoint> checkpoint = Checkpoint::Open(report.directory);
  const Status usable =
      checkpoint.ok() ? CheckTensors(report.config, *checkpoint) : checkpoint.status();
  if (!usable.ok()) {
    report.servable = false;
    report.warnings.push_back(StrCat("the weights cannot be served: ", MessageOf(usable)));
  }
  if (!checkpoint.ok()) return;
  std::set<std::string> expected;
  for (ExpectedTensor& tensor : ExpectedTensors(report.config)) {
    expected.insert(std::move(tensor.name));
  }
  for (const auto& [name, tensor] : checkpoint->tensors()) {
    ++report.tensors_stored;
    report.bytes_by_dtype[tensor->dtype] += tensor->bytes;
    if (!expected.contains(name)) ++report.tensors_unused;
  }
  if (report.tensors_unused > 0) {
    report.warnings.push_back(StrCat(report.tensors_unused,
                                     " stored tensors are not part of the text model and are not "
                                     "loaded (image and audio towers, K and V of shared layers)"));
  }
}

void CheckTextFiles(ModelReport& report) {
  const std::filesystem::path directory(report.directory);
  if (!std::filesystem::exists(directory / "tokenizer.json")) {
    report.servable = false;
    report.warnings.emplace_back(
        "tokenizer.json is missing: a router cannot serve the model; facet model logits can run "
        "it");
  }
  if (!std::filesystem::exists(directory / "generation_config.json")) {
    report.warnings.emplace_back(
        "generation_config.json is missing: temperature 1, top_k 64 and top_p 0.95 are the "
        "defaults");
  }
  const DetectedTemplate detected =
      DetectTemplate(report.directory,
                     report.config.has_ple() ? TemplateVariant::kSmall : TemplateVariant::kLarge);
  if (!detected.warning.empty()) report.warnings.push_back(detected.warning);
}

std::string LayersText(const Gemma4Config& config) {
  const auto full = std::count_if(config.layers.begin(), config.layers.end(),
                                  [](const auto& layer) { return layer.full; });
  const auto shared = std::count_if(config.layers.begin(), config.layers.end(),
                                    [](const auto& layer) { return layer.shares_kv; });
  return StrCat(config.num_layers, " (", config.num_layers - full, " sliding, ", full, " full; ",
                shared, " share KV)");
}

const worker::LayerShape* FirstOf(const Gemma4Config& config, bool full) {
  for (const worker::LayerShape& layer : config.layers) {
    if (layer.full == full) return &layer;
  }
  return nullptr;
}

std::string HeadsText(const Gemma4Config& config) {
  std::string text = StrCat(config.num_q_heads, " query");
  for (const bool full : {false, true}) {
    const worker::LayerShape* layer = FirstOf(config, full);
    if (layer == nullptr) continue;
    text += StrCat("; ", full ? "full " : "sliding ", layer->num_kv_heads, " KV of ",
                   layer->head_dim, layer->k_eq_v ? ", K = V" : "");
  }
  return text;
}

std::string MlpText(const Gemma4Config& config) {
  const int32_t first = config.layers.front().intermediate;
  const int32_t last = config.layers.back().intermediate;
  std::string text = std::to_string(first);
  if (first != last) text += StrCat(", ", last, " where KV is shared");
  if (config.has_experts()) {
    text += StrCat("; ", config.num_experts, " experts of ", config.expert_intermediate, ", ",
                   config.top_k_experts, " chosen");
  }
  return text;
}

std::string Left(const std::string& text, int width) {
  return text + std::string(std::max(0, width - DisplayWidth(text)), ' ');
}

std::string Right(const std::string& text, int width) {
  return std::string(std::max(0, width - DisplayWidth(text)), ' ') + text;
}

}  // namespace

StatusOr<ModelReport> InspectModel(const std::string& directory) {
  ModelReport report{.directory = directory};
  FACET_ASSIGN_OR_RETURN(report.config, worker::LoadGemma4Config(directory));
  CountParameters(report);
  const auto shapes = worker::Gemma4::KvShapes(report.config, kernels::DType::kBf16);
  for (const int64_t tokens : kKvTokens) {
    report.kv.push_back(
        {.tokens = tokens, .bytes = worker::KvBytesOf(shapes, report.config.window, tokens)});
  }
  ReadWeights(report);
  CheckTextFiles(report);
  return report;
}

std::string ReportText(const ModelReport& report, const Paint& paint) {
  const Gemma4Config& config = report.config;
  std::string out;
  const auto title = [&](const char* text) { out += StrCat(paint(Colour::kBold, text), "\n"); };
  const auto line = [&](const std::string& name, const std::string& value) {
    out += StrCat("  ", paint(Colour::kDim, Left(name, 34)), value, "\n");
  };
  out += StrCat(paint(Colour::kBold, report.directory), "  ", config.ShapeName(), "\n\n");
  title("config");
  line("layers", LayersText(config));
  line("hidden", std::to_string(config.hidden));
  line("heads", HeadsText(config));
  line("MLP", MlpText(config));
  line("sliding window", std::to_string(config.window));
  line("context", CountText(config.context_tokens_max));
  line("vocab", CountText(config.vocab));
  out += "\n";
  title("parameters");
  for (const ModelPart& part : report.parts) line(part.name, Right(CountText(part.parameters), 18));
  line("all",
       StrCat(Right(CountText(report.parameters), 18), "  ", ShortCountText(report.parameters)));
  line("multiplied for one token", StrCat(Right(CountText(report.parameters_active), 18), "  ",
                                          ShortCountText(report.parameters_active)));
  out += "\n";
  if (!report.bytes_by_dtype.empty()) title("stored weights");
  for (const auto& [dtype, bytes] : report.bytes_by_dtype) {
    line(dtype, StrCat(Right(CountText(bytes), 18), "  ", BytesText(bytes)));
  }
  if (!report.bytes_by_dtype.empty()) out += "\n";
  title("KV cache of one sequence, bf16");
  for (const KvCost& cost : report.kv) {
    line(StrCat(cost.tokens >> 10, "K tokens"),
         StrCat(Right(CountText(cost.bytes), 18), "  ", BytesText(cost.bytes),
                cost.tokens > config.context_tokens_max ? "  (beyond the context)" : ""));
  }
  if (!report.warnings.empty()) out += "\n";
  for (const std::string& warning : report.warnings) {
    out += StrCat(paint(Colour::kYellow, "warning: "), warning, "\n");
  }
  return out;
}

std::string ReportJson(const ModelReport& report) {
  const Gemma4Config& config = report.config;
  Json layers = Json::array();
  for (const worker::LayerShape& layer : config.layers) {
    layers.push_back(Json{{"kind", layer.full ? "full" : "sliding"},
                          {"shares_kv", layer.shares_kv},
                          {"kv_layer", layer.kv_layer},
                          {"head_dim", layer.head_dim},
                          {"num_kv_heads", layer.num_kv_heads},
                          {"k_eq_v", layer.k_eq_v},
                          {"intermediate", layer.intermediate}});
  }
  Json parts = Json::object();
  for (const ModelPart& part : report.parts) parts[part.name] = part.parameters;
  Json kv = Json::object();
  for (const KvCost& cost : report.kv) kv[std::to_string(cost.tokens)] = cost.bytes;
  return Json{{"directory", report.directory},
              {"shape", config.ShapeName()},
              {"servable", report.servable},
              {"config",
               {{"num_layers", config.num_layers},
                {"hidden", config.hidden},
                {"num_q_heads", config.num_q_heads},
                {"vocab", config.vocab},
                {"ple_size", config.ple_size},
                {"window", config.window},
                {"context_tokens_max", config.context_tokens_max},
                {"num_experts", config.num_experts},
                {"top_k_experts", config.top_k_experts},
                {"expert_intermediate", config.expert_intermediate},
                {"layers", layers}}},
              {"parameters", report.parameters},
              {"parameters_active", report.parameters_active},
              {"parameters_by_part", parts},
              {"bytes_by_dtype", report.bytes_by_dtype},
              {"tensors_stored", report.tensors_stored},
              {"tensors_unused", report.tensors_unused},
              {"kv_bytes_by_tokens", kv},
              {"warnings", report.warnings}}
      .dump(2);
}

}  // namespace facet
