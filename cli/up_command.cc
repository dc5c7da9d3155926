#include "cli/up_command.h"

#include <unistd.h>

#include <filesystem>
#include <memory>

#include "cli/json_lines.h"
#include "cli/local_cluster.h"
#include "proto/config_file.h"

namespace facet {
namespace {

struct UpOptions {
  std::string config = "deploy/demo/cluster.yaml";
  std::string log_level = "info";
  ClientOptions client;
};

Status Up(const UpOptions& options) {
  FACET_ASSIGN_OR_RETURN(v1::ClusterConfig config, ReadClusterConfig(options.config));
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Unavailable("cannot tell where facet lies: ", error.message());
  LocalCluster cluster({.config_file = options.config,
                        .program_directory = program.parent_path().string(),
                        .log_level = options.log_level,
                        .client = options.client},
                       std::move(config), Paint::ForDescriptor(STDERR_FILENO));
  Status status = cluster.Start();
  if (status.ok()) status = cluster.Supervise();
  cluster.Stop();
  return status;
}

}  // namespace

void AddUpCommand(CLI::App& app) {
  const auto options = std::make_shared<UpOptions>();
  CLI::App* command = app.add_subcommand(
      "up", "Start a router and its workers from one YAML file, and stop them on Ctrl-C");
  command->add_option("--config", options->config, "The cluster's YAML file")
      ->capture_default_str();
  command->add_option("--log-level", options->log_level, "Of the processes")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  options->client.AddIdentityTo(*command);
  command->footer("Example: facet up --config deploy/demo/cluster.yaml");
  command->callback([options] { ExitOnError("up", Up(*options)); });
}

}  // namespace facet
