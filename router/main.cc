// facet-router: reads the cluster's config, serves, and on SIGTERM or SIGINT drains and ends.
#include <grpcpp/grpcpp.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <random>
#include <string>

#include "base/log.h"
#include "proto/config_file.h"
#include "proto/grpc_health.h"
#include "proto/grpc_log.h"
#include "proto/grpc_tls.h"
#include "router/router_server.h"

namespace facet::router {
namespace {

constexpr absl::Duration kHealthTimeout = absl::Seconds(4);

struct Flags {
  std::string config;
  std::string name;
  std::string grpc_address;
  std::string http_address;
  std::string metrics_address;
  std::string log_level = "info";
  bool check_config = false;
  bool health = false;
};

uint64_t RandomSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

// The signals that end the process, blocked in every thread so that main can wait for them.
sigset_t BlockEndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

Status Serve(const Flags& flags) {
  LogLevel level = kInfo;
  if (!ParseLogLevel(flags.log_level, &level)) {
    return InvalidArgument("--log-level is ", flags.log_level,
                           "; it must be debug, info, warning or error");
  }
  SetLogLevel(level);
  LogGrpcAsEvents();
  const sigset_t signals = BlockEndSignals();
  std::signal(SIGPIPE, SIG_IGN);
  FACET_ASSIGN_OR_RETURN(v1::ClusterConfig config, ReadClusterConfig(flags.config));
  v1::RouterConfig& router = *config.mutable_router();
  if (flags.name.find('/') != std::string::npos) {
    return InvalidArgument("--name is \"", flags.name, "\"; it is part of file names: no /");
  }
  if (!flags.name.empty()) router.set_name(flags.name);
  if (!flags.grpc_address.empty()) router.set_grpc_address(flags.grpc_address);
  if (!flags.http_address.empty()) router.set_http_address(flags.http_address);
  if (!flags.metrics_address.empty()) router.set_metrics_address(flags.metrics_address);
  if (flags.check_config) return absl::OkStatus();
  if (flags.health) {
    return CheckServing(
        router.grpc_address(),
        router.has_tls() ? HealthChannelCredentials(nullptr) : grpc::InsecureChannelCredentials(),
        kHealthTimeout);
  }
  RouterOptions options;
  options.random_seed = RandomSeed();
  FACET_ASSIGN_OR_RETURN(const auto server, RouterServer::Start(config, options));
  Log(kInfo, "router listens",
      {{"grpc_port", server->grpc_port()},
       {"http_port", server->http_port()},
       {"metrics_port", server->metrics_port()},
       {"models", config.models_size()}});
  int signal = 0;
  sigwait(&signals, &signal);
  Log(kInfo, "router ends", {{"signal", signal}});
  server->Drain();
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Routes requests for Gemma models to workers: gRPC and an OpenAI-compatible API.",
               "facet-router");
  app.add_option("--config", flags.config, "The cluster's YAML file")->required();
  app.add_option("--name", flags.name, "In the names of its usage files, instead of the config's");
  app.add_option("--grpc-address", flags.grpc_address, "host:port, instead of the config's");
  app.add_option("--http-address", flags.http_address, "host:port or off, likewise");
  app.add_option("--metrics-address", flags.metrics_address, "host:port or off, likewise");
  app.add_option("--log-level", flags.log_level, "debug, info, warning or error");
  app.add_flag("--check-config", flags.check_config,
               "Reads config and flags, says what is wrong, ends");
  app.add_flag("--health", flags.health,
               "Asks the router that runs with these flags; exit status 0 if it serves");
  CLI11_PARSE(app, argc, argv);
  const Status status = Serve(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "facet-router: %s\n", MessageOf(status).c_str());
  return 1;
}

}  // namespace
}  // namespace facet::router

int main(int argc, char** argv) {
  try {
    return facet::router::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "facet-router: %s\n", error.what());
    return 1;
  }
}
