// facet: the command line. Each command registers itself and runs as a callback; one that fails has
// said why on standard error and throws its exit status.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "cli/bench_command.h"
#include "cli/chat_command.h"
#include "cli/generate_command.h"
#include "cli/keys_command.h"
#include "cli/model_command.h"
#include "cli/render_command.h"
#include "cli/status_command.h"
#include "cli/tokenize_command.h"
#include "cli/up_command.h"
#include "cli/usage_command.h"

namespace facet {
namespace {

int Main(int argc, char** argv) {
  CLI::App app("Facet: a server for Gemma 4 models");
  app.require_subcommand(1);
  AddUpCommand(app);
  AddChatCommand(app);
  AddGenerateCommand(app);
  AddStatusCommand(app);
  AddUsageCommand(app);
  AddKeysCommand(app);
  AddModelCommand(app);
  AddBenchCommand(app);
  AddTokenizeCommand(app);
  AddRenderCommand(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return 0;
}

}  // namespace
}  // namespace facet

int main(int argc, char** argv) {
  try {
    return facet::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "facet: %s\n", error.what());
    return 1;
  }
}
