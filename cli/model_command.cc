#include "cli/model_command.h"

#include <unistd.h>

#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/json_lines.h"
#include "cli/model_inspect.h"
#include "cli/model_logits.h"
#include "cli/model_synth.h"
#include "cli/terminal.h"

namespace facet {
namespace {

struct InspectOptions {
  std::string directory;
  bool json = false;
};

Status Inspect(const InspectOptions& options) {
  FACET_ASSIGN_OR_RETURN(const ModelReport report, InspectModel(options.directory));
  const Paint paint = Paint::ForDescriptor(STDOUT_FILENO);
  std::cout << (options.json ? ReportJson(report) + "\n" : ReportText(report, paint));
  return absl::OkStatus();
}

void AddInspect(CLI::App& model) {
  const auto options = std::make_shared<InspectOptions>();
  CLI::App* command = model.add_subcommand(
      "inspect", "Config, parameters, stored bytes, KV bytes and what is missing");
  command->add_option("dir", options->directory, "Directory with config.json")->required();
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->footer("Example: facet model inspect deploy/demo/models/facet-demo-e4b");
  command->callback([options] { ExitOnError("model inspect", Inspect(*options)); });
}

struct SynthOptions {
  std::string shape;
  std::string directory;
  int32_t layers = 0;
  uint64_t seed = 0;
};

Status Synth(const SynthOptions& options, bool layers_given) {
  FACET_ASSIGN_OR_RETURN(worker::ModelShape shape, worker::PublishedShape(options.shape));
  if (layers_given) {
    FACET_ASSIGN_OR_RETURN(shape, worker::WithLayers(shape, options.layers));
  }
  FACET_ASSIGN_OR_RETURN(const SynthPlan plan, PlanSynth(shape));
  FACET_RETURN_IF_ERROR(WriteSynth(plan, options.directory, options.seed));
  std::cout << options.directory << ": " << ShortCountText(plan.num_parameters) << " parameters, "
            << BytesText(plan.bytes) << ", " << plan.shards.size()
            << (plan.shards.size() == 1 ? " file" : " files") << " of weights\n";
  return absl::OkStatus();
}

void AddSynth(CLI::App& model) {
  const auto options = std::make_shared<SynthOptions>();
  CLI::App* command = model.add_subcommand(
      "synth", "Random bf16 weights in the published layout; without a tokenizer");
  command->add_option("shape", options->shape, "e2b, e4b, 26b or 31b")->required();
  command->add_option("dir", options->directory, "A directory that is empty or not there yet")
      ->required();
  const CLI::Option* layers = command->add_option(
      "--layers", options->layers, "Fewer layers of the same pattern, at least 2 (default: all)");
  command->add_option("--seed", options->seed, "The same seed writes the same weights")
      ->capture_default_str();
  command->footer(
      "Files hold at most 5 GB; a larger tensor has one of its own.\n"
      "Example: facet model synth e4b /tmp/e4b-6 --layers 6");
  command->callback(
      [options, layers] { ExitOnError("model synth", Synth(*options, layers->count() > 0)); });
}

Status Logits(LogitsOptions options, const std::vector<std::string>& ids) {
  FACET_ASSIGN_OR_RETURN(options.ids, ParseIdList(ids));
  return WriteLogits(options);
}

void AddLogits(CLI::App& model) {
  const auto options = std::make_shared<LogitsOptions>();
  CLI::App* command = model.add_subcommand(
      "logits", "Logits of every position of a prompt, as raw little-endian float32");
  command->add_option("--model", options->model_directory, "Directory of the model")->required();
  const auto ids = std::make_shared<std::vector<std::string>>();
  command->add_option("--ids", *ids, "Token ids, separated by commas")->delimiter(',')->required();
  command->add_option("--dtype", options->dtype, "bf16 or f32, of weights and activations")
      ->capture_default_str();
  command->add_option("--chunk", options->chunk_tokens, "Prompt tokens in one step")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "0: all cores")->capture_default_str();
  command->add_option("--device", options->device, "cpu, cuda or cuda:N")->default_str("cpu");
  command->add_option("--cpu-tier", options->cpu_tier,
                      "scalar, avx2 or avx512 (default: the best of this machine)");
  command->add_option("--out", options->out_file, "File that gets [ids, vocab]")->required();
  command->footer(
      "Example: facet model logits --model deploy/demo/models/facet-demo-e4b --ids 2,7,9 "
      "--dtype f32 --out logits.f32");
  command->callback([options, ids] { ExitOnError("model logits", Logits(*options, *ids)); });
}

}  // namespace

void AddModelCommand(CLI::App& app) {
  CLI::App* model = app.add_subcommand("model", "Inspect, synthesize or run a model directory");
  model->require_subcommand(1);
  model->footer("Example: facet model inspect deploy/demo/models/facet-demo-e4b");
  AddInspect(*model);
  AddSynth(*model);
  AddLogits(*model);
}

}  // namespace facet
