#include "cli/usage_command.h"

#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "cli/json_lines.h"
#include "cli/usage_report.h"
#include "proto/config_file.h"

namespace facet {
namespace {

struct UsageOptions {
  std::vector<std::string> by = {"tenant", "model"};
  std::string from;
  std::string to;
  std::vector<std::string> ledgers;
  std::string config = "deploy/demo/cluster.yaml";
  bool json = false;
};

// The paths of --ledger, or what the config says.
StatusOr<std::vector<std::string>> LedgersOf(const UsageOptions& options) {
  if (!options.ledgers.empty()) return options.ledgers;
  FACET_ASSIGN_OR_RETURN(const v1::ClusterConfig config, ReadClusterConfig(options.config));
  if (config.ledger_directory().empty()) {
    return InvalidArgument("--config: ", options.config,
                           " has no ledger_directory, so no usage is recorded; --ledger names "
                           "other files");
  }
  return std::vector<std::string>{config.ledger_directory()};
}

Status ShowUsage(const UsageOptions& options) {
  UsageQuery query{.by = options.by};
  FACET_RETURN_IF_ERROR(CheckUsageKeys(query.by));
  if (!options.from.empty()) {
    FACET_ASSIGN_OR_RETURN(query.from_unix_ns, ParseInstant("--from", options.from));
  }
  if (!options.to.empty()) {
    FACET_ASSIGN_OR_RETURN(query.to_unix_ns, ParseInstant("--to", options.to));
  }
  FACET_ASSIGN_OR_RETURN(const std::vector<std::string> ledgers, LedgersOf(options));
  UsageRecords records;
  for (const std::string& path : ledgers) {
    if (const Status status = records.Read(path); !status.ok()) {
      return Annotate(status, options.ledgers.empty() ? "ledger_directory" : "--ledger");
    }
  }
  const UsageReport report = SumUsage(records, query);
  std::cout << (options.json ? UsageJsonLines(report, query) : UsageTable(report, query));
  std::cout.flush();
  return std::cout ? absl::OkStatus() : Unavailable("cannot write to standard output");
}

}  // namespace

void AddUsageCommand(CLI::App& app) {
  const auto options = std::make_shared<UsageOptions>();
  CLI::App* command = app.add_subcommand(
      "usage", "Requests, tokens, device time and dollars, summed from the routers' ledgers");
  command
      ->add_option("--by", options->by,
                   "What a row stands for: tenant, model, phase, worker, device_class, outcome, "
                   "finish, settled_by, day")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--from", options->from, "Ended at this day or instant (UTC), or later");
  command->add_option("--to", options->to, "Ended before this day or instant (UTC)");
  command->add_option("--ledger", options->ledgers,
                      "Directories or files to read, instead of the config's ledger_directory");
  command->add_option("--config", options->config, "The cluster's YAML file")
      ->capture_default_str();
  command->add_flag("--json", options->json, "One JSON object a line instead of a table");
  command->footer("Example: facet usage --by tenant,model,phase --from 2026-11-01 --to 2026-12-01");
  command->callback([options] { ExitOnError("usage", ShowUsage(*options)); });
}

}  // namespace facet
