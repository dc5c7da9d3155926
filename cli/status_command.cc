#include "cli/status_command.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <memory>

#include "absl/time/clock.h"
#include "cli/client.h"
#include "cli/json_lines.h"
#include "cli/status_table.h"

namespace facet {
namespace {

struct StatusOptions {
  ClientOptions client;
  double wait_seconds = 0;
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
      std::cout << (options.json ? StatusJson(*status) + "\n" : StatusTable(*status, paint));
    }
    if (ready.ok() || options.wait_seconds == 0) return ready;
    return Annotate(ready, StrCat("after ", options.wait_seconds, " s"));
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
  command->add_option("--wait", options->wait_seconds, "Ask until all are ready, so many seconds")
      ->check(CLI::Range(0.0, 86400.0));
  command->add_flag("--json", options->json, "One JSON object instead of a table");
  command->footer("Example: facet status --wait 30");
  command->callback([options] { ExitOnError("status", ShowStatus(*options)); });
}

}  // namespace facet
