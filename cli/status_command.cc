#include "cli/status_command.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/time/clock.h"
#include "cli/client.h"
#include "cli/json_lines.h"
#include "cli/status_table.h"
#include "cli/status_watch.h"
#include "proto/cluster_status.h"

namespace facet {
namespace {

struct StatusOptions {
  ClientOptions client;
  double wait_seconds = 0;
  double watch_seconds = 0;  // 0: once.
  bool json = false;
};

constexpr int64_t kCallTimeoutMs = 5'000;
constexpr int64_t kPollTimeoutMs = 1'000;
constexpr absl::Duration kPollInterval = absl::Milliseconds(200);

// Asks until every worker is ready or the time is over, then prints the last answer. The error is
// why the cluster is not ready.
Status ShowStatus(const StatusOptions& options) {
  const absl::Time end = absl::Now() + absl::Seconds(options.wait_seconds);
  while (true) {
    const auto left_ms = std::max<int64_t>(absl::ToInt64Milliseconds(end - absl::Now()), 0);
    const int64_t timeout_ms = options.wait_seconds > 0
                                   ? std::clamp<int64_t>(left_ms, 200, kPollTimeoutMs)
                                   : kCallTimeoutMs;
    // A new one each time: a channel that was refused once waits for seconds before it tries again.
    Client client(options.client);
    const StatusOr<v1::GetStatusResponse> status = client.GetStatus(timeout_ms);
    Status ready = status.ok() ? CheckReady(*status) : status.status();
    if (!ready.ok() && absl::Now() + kPollInterval < end) {
      absl::SleepFor(kPollInterval);
      continue;
    }
    if (status.ok()) {
      const Paint paint = Paint::ForDescriptor(STDOUT_FILENO);
      std::cout << (options.json ? StatusJson(*status).dump(2) + "\n"
                                 : StatusTable(*status, paint));
    }
    if (ready.ok() || options.wait_seconds == 0) return ready;
    return Annotate(ready, StrCat("after ", options.wait_seconds, " s"));
  }
}

// Until it is interrupted. A terminal is cleared for each answer; elsewhere they follow each other.
[[noreturn]] void Watch(const StatusOptions& options) {
  constexpr const char* kClear = "\x1b[H\x1b[2J\x1b[3J";
  const bool terminal = isatty(STDOUT_FILENO) == 1;
  StatusWatch watch(Paint::ForDescriptor(STDOUT_FILENO));
  while (true) {
    Client client(options.client);
    const std::string frame = watch.Frame(client.GetStatus(kPollTimeoutMs));
    std::cout << (terminal ? kClear : "") << frame << std::endl;
    absl::SleepFor(absl::Seconds(options.watch_seconds));
  }
}

}  // namespace

void AddStatusCommand(CLI::App& app) {
  const auto options = std::make_shared<StatusOptions>();
  CLI::App* command = app.add_subcommand(
      "status", "Workers, health and load; exit status 0 when every worker is ready");
  command->add_option("--address", options->client.address, "The router's gRPC address")
      ->capture_default_str();
  options->client.AddIdentityTo(*command);
  CLI::Option* const wait =
      command
          ->add_option("--wait", options->wait_seconds, "Ask until all are ready, so many seconds")
          ->check(CLI::Range(0.0, 86400.0));
  CLI::Option* const json =
      command->add_flag("--json", options->json, "One JSON object instead of a table");
  command
      ->add_option("--watch", options->watch_seconds, "Again every so many seconds, until Ctrl-C")
      ->expected(0, 1)
      ->default_str("2")
      ->check(CLI::Range(0.2, 3600.0))
      ->excludes(wait)
      ->excludes(json);
  command->footer("Example: facet status --wait 30; facet status --watch");
  command->callback([options] {
    if (options->watch_seconds > 0) Watch(*options);
    ExitOnError("status", ShowStatus(*options));
  });
}

}  // namespace facet
