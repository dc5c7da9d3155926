#include "cli/render_command.h"

#include <filesystem>
#include <iostream>
#include <memory>

#include "base/file.h"
#include "cli/json_lines.h"
#include "text/chat_template.h"

namespace facet {
namespace {

// Models with per-layer embeddings use the small template; without a readable config.json, large.
TemplateVariant VariantByShape(const std::filesystem::path& directory) {
  const StatusOr<std::string> text = ReadFile((directory / "config.json").string());
  if (!text.ok()) return TemplateVariant::kLarge;
  const StatusOr<OrderedJson> config = ParseBoundedJson(*text);
  if (!config.ok() || !config->is_object()) return TemplateVariant::kLarge;
  const auto text_config = config->find("text_config");
  const OrderedJson& model = text_config == config->end() ? *config : *text_config;
  if (!model.is_object()) return TemplateVariant::kLarge;
  const auto width = model.find("hidden_size_per_layer_input");
  const bool has_per_layer = width != model.end() && PythonTruth(*width);
  return has_per_layer ? TemplateVariant::kSmall : TemplateVariant::kLarge;
}

StatusOr<TemplateVariant> ChooseVariant(const RenderOptions& options, std::ostream& notes) {
  if (options.template_name == "small") return TemplateVariant::kSmall;
  if (options.template_name == "large") return TemplateVariant::kLarge;
  if (!options.template_name.empty()) {
    return InvalidArgument("--template is ", options.template_name, "; known are small and large");
  }
  if (!std::filesystem::is_directory(options.model_directory)) {
    return NotFound("no directory ", options.model_directory);
  }
  const DetectedTemplate detected =
      DetectTemplate(options.model_directory, VariantByShape(options.model_directory));
  if (!detected.warning.empty()) notes << "facet render: warning: " << detected.warning << '\n';
  return detected.variant;
}

}  // namespace

Status Render(const RenderOptions& options,
              std::istream& in,
              std::ostream& out,
              std::ostream& notes) {
  FACET_ASSIGN_OR_RETURN(const TemplateVariant variant, ChooseVariant(options, notes));
  return ConvertLines(in, out, [&](const std::string& line) -> StatusOr<std::string> {
    FACET_ASSIGN_OR_RETURN(const Conversation conversation, ParseConversationJson(line));
    FACET_ASSIGN_OR_RETURN(const std::string prompt, RenderChat(conversation, variant));
    return OrderedJson{{"prompt", prompt}}.dump();
  });
}

void AddRenderCommand(CLI::App& app) {
  const auto options = std::make_shared<RenderOptions>();
  CLI::App* command =
      app.add_subcommand("render", "Conversations to prompt texts, one JSON object a line");
  CLI::Option_group* source = command->add_option_group("template", "Which template renders");
  source->add_option("--model", options->model_directory, "Directory of the model whose it is");
  source->add_option("--template", options->template_name, "small (E2B, E4B) or large (26B, 31B)")
      ->check(CLI::IsMember({"small", "large"}));
  source->require_option(1);
  command->footer(
      "Example: echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}' | "
      "facet render --template small");
  command->callback(
      [options] { ExitOnError("render", Render(*options, std::cin, std::cout, std::cerr)); });
}

}  // namespace facet
