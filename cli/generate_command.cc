#include "cli/generate_command.h"

#include <iostream>
#include <iterator>
#include <memory>

#include "cli/answer.h"
#include "cli/client.h"
#include "cli/json_lines.h"

namespace facet {
namespace {

struct GenerateOptions {
  ClientOptions client;
  std::string model;
  std::string prompt;
  bool raw = false;
  bool think = false;
  bool json = false;
  SamplingFlags sampling;
};

Status Chat(Client& client, const GenerateOptions& options, Answer& answer) {
  v1::ChatRequest request;
  request.set_model(options.model);
  v1::Message& message = *request.add_messages();
  message.set_role("user");
  message.set_content(options.prompt);
  request.set_enable_thinking(options.think);
  *request.mutable_sampling() = options.sampling.Sampling();
  *request.mutable_limits() = options.sampling.Limits();
  return client.Chat(request, [&](const v1::ChatResponse& event) {
    answer.Add(event);
    if (!options.json && event.has_text()) std::cout << event.text().text() << std::flush;
  });
}

Status Continue(Client& client, const GenerateOptions& options, Answer& answer) {
  v1::GenerateRequest request;
  request.set_model(options.model);
  request.set_text(options.prompt);
  *request.mutable_sampling() = options.sampling.Sampling();
  *request.mutable_limits() = options.sampling.Limits();
  return client.Generate(request, [&](const v1::GenerateResponse& event) {
    answer.Add(event);
    if (!options.json && event.has_text()) std::cout << event.text().text() << std::flush;
  });
}

Status Generate(GenerateOptions options) {
  if (options.raw && options.think) {
    return InvalidArgument("--think needs a chat template, which --raw leaves out");
  }
  if (options.prompt == "-") {
    options.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  Client client(options.client);
  Answer answer;
  const Status status =
      options.raw ? Continue(client, options, answer) : Chat(client, options, answer);
  if (!options.json && !answer.text().empty()) std::cout << '\n';
  FACET_RETURN_IF_ERROR(status);
  if (options.json) std::cout << answer.Json() << '\n';
  std::cout.flush();
  return std::cout ? absl::OkStatus() : Unavailable("cannot write to standard output");
}

}  // namespace

void AddGenerateCommand(CLI::App& app) {
  const auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "One prompt, one answer, as it is written");
  command->add_option("--model", options->model,
                      "Name of a served model; may be left out if one is");
  command->add_option("--prompt", options->prompt, "The text; - reads standard input")->required();
  command->add_flag("--raw", options->raw, "Continue the text as it stands, without chat template");
  command->add_flag("--think", options->think, "Let the model think first (only --json shows it)");
  options->sampling.AddTo(*command);
  command->add_flag("--json", options->json,
                    "One JSON object at the end: text, token_ids, finish_reason, usage, timing");
  command->add_option("--address", options->client.address, "The router's gRPC address")
      ->capture_default_str();
  options->client.AddIdentityTo(*command);
  command->footer(
      "Example: facet generate --model facet-demo-e4b --prompt 'What is the capital of France?' "
      "--temperature 0");
  command->callback([options] { ExitOnError("generate", Generate(*options)); });
}

}  // namespace facet
