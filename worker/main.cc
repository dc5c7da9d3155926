// facet-worker: reads the config, chooses backend and model, builds, serves, drains. The only
// wiring.
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/progress_bar.h"
#include "kernels/open_backend.h"
#include "proto/config_file.h"
#include "proto/grpc_log.h"
#include "proto/grpc_status.h"
#include "proto/grpc_tls.h"
#include "worker/comm/gloo_communicator.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/comm/nccl_library.h"
#include "worker/end_signals.h"
#include "worker/engine/engine.h"
#include "worker/executor/model_executor.h"
#include "worker/executor/rank_group.h"
#include "worker/service/worker_metrics.h"
#include "worker/service/worker_session.h"
#include "worker/worker_place.h"

namespace facet::worker {
namespace {

StatusOr<std::unique_ptr<kernels::Backend>> MakeBackend(const facet::v1::PoolConfig& pool) {
  kernels::OpenedBackend opened = kernels::OpenBackend({.device = pool.device(),
                                                        .cpu_tier = pool.cpu_tier(),
                                                        .threads = pool.threads(),
                                                        .kernels = pool.kernels()});
  if (opened.backend == nullptr) return InvalidArgument(opened.error);
  return std::move(opened.backend);
}

// The rank that this worker is to have: its index, or for a spare what rank 0 says.
StatusOr<int32_t> AwaitRank(const WorkerPlace& place,
                            const GroupControl::Options& options,
                            WorkerService& service) {
  if (place.index < options.num_ranks) return place.index;
  service.SetNotReady(WithReason(
      Unavailable("waits to take a rank's place in group ", place.pool.name()), "SPARE"));
  Log(kInfo, "worker is a spare", {{"worker", place.worker_name()}});
  while (true) {
    const StatusOr<int32_t> rank = GroupControl::AwaitAssignment(options, absl::Seconds(60));
    if (rank.ok()) return rank;
    if (!absl::IsDeadlineExceeded(rank.status()) && !absl::IsUnavailable(rank.status())) {
      return rank.status();
    }
  }
}

bool UsesNccl(const WorkerPlace& place) { return place.pool.expert_group().comm() == "nccl"; }

// The rank's end of its group; stream: the backend's, if it has one.
StatusOr<std::unique_ptr<Communicator>> FormGroup(const WorkerPlace& place,
                                                  const GroupControl::Options& options,
                                                  const kernels::DeviceStream* stream,
                                                  absl::Duration timeout) {
  if (!UsesNccl(place)) {
    return FormGloo({.control = options, .data_host = place.data_host}, timeout);
  }
  return FormNccl(
      {.control = options, .library = place.pool.expert_group().nccl_library(), .stream = stream},
      timeout);
}

// What Describe answers while the group is not formed. A rank whose place another process has taken
// stands by for it.
Status NotInGroup(const Status& cause) {
  const bool stands_by = absl::IsFailedPrecondition(cause);
  return WithReason(
      Unavailable(stands_by ? "stands by: " : "its group forms anew: ", MessageOf(cause)),
      stands_by ? "SPARE" : "GROUP_FORMING");
}

// Trying again would not help.
bool NeverInGroup(const Status& cause) {
  return absl::IsPermissionDenied(cause) || absl::IsInvalidArgument(cause);
}

// One step over one token, so that a worker that says it is ready has computed something.
Status RunCanary(Executor& executor, int32_t bos_id) {
  StepBatch batch{.token_ids = {bos_id}};
  BatchRow row{.num_tokens = 1};
  for (const KvGeometry geometry : kKvGeometries) {
    if (executor.info().kv.of(geometry).blocks_per_slab == 0) continue;
    // A slab of its own for each geometry: nothing else is in the arena yet.
    const int32_t block =
        static_cast<int>(geometry) * executor.info().kv.of(geometry).blocks_per_slab;
    row.tables[static_cast<int>(geometry)].blocks = {block};
  }
  row.slot_state = SlotState{.sampling = {.temperature = 0}, .prompt_tokens = 1};
  batch.rows.push_back(std::move(row));
  const StepResult result = executor.Await(executor.Submit(batch));
  FACET_RETURN_IF_ERROR(result.status);
  if (result.rows[0].finite) return absl::OkStatus();
  return Internal("the first step gave logits that are not finite: are the weights damaged?");
}

int32_t OrDefault(int32_t value, int32_t fallback) { return value > 0 ? value : fallback; }

struct Flags {
  std::string config = "cluster.yaml";
  PlaceFlags place;
  std::string log_level = "info";
};

Status Run(const Flags& flags, SignalAction& on_signal) {
  const Clock& clock = Clock::Real();
  const int64_t start_ns = clock.NowNs();
  FACET_ASSIGN_OR_RETURN(const facet::v1::ClusterConfig cluster, ReadClusterConfig(flags.config));
  FACET_ASSIGN_OR_RETURN(const WorkerPlace place, FindPlace(cluster, flags.place));
  const facet::v1::PoolConfig& pool = place.pool;
  FACET_RETURN_IF_ERROR(CheckWorkerAddress(cluster, "--grpc-address", place.grpc_address));
  FACET_ASSIGN_OR_RETURN(auto credentials, WorkerServerCredentials(cluster));

  // The port answers while the weights load.
  WorkerService service(clock);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(place.grpc_address, credentials, &port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(64 << 20);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return Unavailable("cannot listen on ", place.grpc_address);
  }
  grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService();
  health->SetServingStatus(false);
  WorkerMetricsPage page;
  std::unique_ptr<MetricsServer> metrics;
  if (place.metrics_address != "off") {
    FACET_ASSIGN_OR_RETURN(metrics, MetricsServer::Start(place.metrics_address, page));
  }
  Log(kInfo, "worker listens",
      {{"worker", place.worker_name()},
       {"grpc_port", port},
       {"metrics_port", metrics == nullptr ? 0 : metrics->port()}});

  GroupControl::Options group_options;
  ExpertShare share;
  if (place.is_rank()) {
    FACET_ASSIGN_OR_RETURN(group_options, GroupOptionsOf(place));
    if (UsesNccl(place)) {  // Said before anything is loaded: no attempt to form would mend it.
      FACET_RETURN_IF_ERROR(NcclLibrary::Open(pool.expert_group().nccl_library()).status());
    }
    FACET_ASSIGN_OR_RETURN(group_options.rank, AwaitRank(place, group_options, service));
    share = {.rank = group_options.rank, .num_ranks = group_options.num_ranks};
  }

  FACET_ASSIGN_OR_RETURN(std::unique_ptr<kernels::Backend> backend, MakeBackend(pool));
  const kernels::DeviceStream* stream = backend->device_stream();
  const int32_t running_max = OrDefault(pool.running_max(), 64);
  const int32_t step_tokens_max = OrDefault(pool.step_tokens_max(), 512);
  std::unique_ptr<ModelExecutor> executor;
  {
    ProgressBar bar(StrCat("loading ", place.model.name()));
    FACET_ASSIGN_OR_RETURN(
        executor,
        ModelExecutor::Create(
            {.model_directory = place.model.directory(),
             .dtype = pool.dtype() == "f32" ? kernels::DType::kF32 : kernels::DType::kBf16,
             .kv_bytes = pool.kv_bytes() > 0 ? pool.kv_bytes() : int64_t{256} << 20,
             .running_max = running_max,
             .step_tokens_max = step_tokens_max,
             .experts = share,
             .group_timeout = absl::Milliseconds(pool.expert_group().step_ms_max())},
            std::move(backend), [&bar](int64_t done, int64_t total) { bar.Update(done, total); }));
  }
  // A rank computes nothing alone.
  if (!place.is_rank()) FACET_RETURN_IF_ERROR(RunCanary(*executor, executor->config().bos_id));

  const int32_t context_max =
      pool.context_tokens_max() > 0
          ? std::min(pool.context_tokens_max(), executor->config().context_tokens_max)
          : executor->config().context_tokens_max;
  Engine engine({.scheduler = {.running_max = running_max,
                               .waiting_max = OrDefault(pool.waiting_max(), 16),
                               .step_tokens_max = step_tokens_max,
                               .chunk_tokens_max = step_tokens_max,
                               .context_tokens_max = context_max},
                 .price_usd_per_hour = pool.price_usd_per_hour()},
                *executor, service, clock);
  if (engine.context_tokens_max() < pool.context_tokens_max()) {
    return InvalidArgument("context_tokens_max is ", pool.context_tokens_max(),
                           "; kv_bytes and the model hold at most ", engine.context_tokens_max());
  }
  engine.SetHeldSince(start_ns);
  engine.Start();

  const std::string device_class = pool.device_class().empty() ? "cpu" : pool.device_class();
  v1::DescribeResponse description;
  description.set_model(place.model.name());
  description.set_pool(pool.name());
  description.set_index(place.index);
  FACET_ASSIGN_OR_RETURN(const std::string config_json,
                         ReadFile(place.model.directory() + "/config.json"));
  description.set_config_digest(Sha256Hex(config_json));
  const StatusOr<std::string> tokenizer = ReadFile(place.model.directory() + "/tokenizer.json");
  if (tokenizer.ok()) description.set_tokenizer_digest(Sha256Hex(*tokenizer));
  description.set_weights_digest(executor->weights_digest());
  description.set_context_tokens_max(engine.context_tokens_max());
  description.set_numerics_id(executor->info().numerics_id);
  description.set_device_class(device_class);
  description.set_price_usd_per_hour(pool.price_usd_per_hour());
  description.set_num_ranks(share.num_ranks);
  description.set_rank(share.rank);
  if (place.is_rank()) description.set_group(pool.name());
  description.set_worker_epoch(static_cast<uint64_t>(clock.UnixNs()));
  description.set_kv_bytes_total(executor->info().kv.arena_bytes());
  description.set_vocab(executor->info().vocab);

  // Drain: new submits are refused, running ones end, then the process does. A second cause or the
  // limit ends it at once.
  absl::Mutex mutex;
  bool drained = false;
  const int64_t drain_ms = pool.drain_ms_max() > 0 ? pool.drain_ms_max() : 30'000;
  bool drain_began = false;
  const auto drain = [&] {
    {
      absl::MutexLock lock(&mutex);
      if (std::exchange(drain_began, true)) return;
    }
    Log(kInfo, "worker drains", {{"worker", place.worker_name()}});
    health->SetServingStatus(false);
    engine.Drain([&] {
      absl::MutexLock lock(&mutex);
      drained = true;
    });
  };
  page.Follow([&engine] { return engine.Stats(); },
              {.pool = pool.name(),
               .model = place.model.name(),
               .device_class = device_class,
               .worker = place.worker_name()},
              pool.price_usd_per_hour());
  const auto serve = [&](int64_t group_epoch) {
    description.set_group_epoch(group_epoch);
    engine.Resume();
    service.Serve(engine, description, drain);
    health->SetServingStatus(true);
  };
  on_signal.Set(drain);
  Status fatal;  // Why no group will ever have this rank.
  std::optional<RankGroup> group;
  if (place.is_rank()) {
    engine.Suspend(Unavailable("it has not been formed yet"));
    group.emplace(
        [&](int64_t epoch_min, absl::Duration timeout) {
          group_options.epoch_min = epoch_min;
          return FormGroup(place, group_options, stream, timeout);
        },
        *executor,
        RankGroup::Events{
            .on_formed =
                [&](int64_t epoch) {
                  Log(kInfo, "group formed",
                      {{"group", pool.name()}, {"rank", share.rank}, {"epoch", epoch}});
                  serve(epoch);
                },
            .on_not_formed =
                [&](const Status& cause) {
                  Log(kWarning, "group not formed",
                      {{"group", pool.name()}, {"rank", share.rank}, {"cause", MessageOf(cause)}});
                  health->SetServingStatus(false);
                  engine.Suspend(cause);
                  service.SetNotReady(NotInGroup(cause));
                  if (!NeverInGroup(cause)) return;
                  absl::MutexLock lock(&mutex);
                  fatal = cause;
                },
            .on_peer_leaves = drain},
        FirstEpochMin());
  } else {
    serve(0);
  }
  Log(kInfo, "worker ready",
      {{"worker", place.worker_name()},
       {"model", place.model.name()},
       {"numerics_id", executor->info().numerics_id},
       {"context_tokens_max", engine.context_tokens_max()},
       {"kv_bytes", executor->info().kv.arena_bytes()},
       {"ready_seconds", static_cast<double>(clock.NowNs() - start_ns) / 1e9}});

  {
    absl::MutexLock lock(&mutex);
    const auto ends = [&] { return drain_began || !fatal.ok(); };
    mutex.Await(absl::Condition(&ends));
    const bool whole = !fatal.ok() || mutex.AwaitWithTimeout(absl::Condition(&drained),
                                                             absl::Milliseconds(drain_ms));
    if (!whole) Log(kWarning, "drain limit reached", {{"drain_ms_max", drain_ms}});
  }
  if (group) group->Leave(fatal.ok() ? absl::Milliseconds(drain_ms) : absl::ZeroDuration());
  group.reset();
  page.Unfollow();
  service.Shutdown();
  engine.Stop();
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
  Log(kInfo, "worker ends", {{"worker", place.worker_name()}});
  return fatal;
}

}  // namespace
}  // namespace facet::worker

int main(int argc, char** argv) {
  facet::worker::Flags flags;
  CLI::App app("Runs a Gemma 4 model and serves it to Facet routers.", "facet-worker");
  app.add_option("--config", flags.config, "Cluster config (YAML)")->required();
  app.add_option("--pool", flags.place.pool, "Pool of the config that this worker belongs to");
  app.add_option("--index", flags.place.index, "Place of this worker in its pool");
  app.add_option("--device", flags.place.device, "Overrides the pool's device");
  app.add_option("--grpc-address", flags.place.grpc_address,
                 "Overrides the config; port 0 picks one");
  app.add_option("--metrics-address", flags.place.metrics_address,
                 "Overrides the config; \"off\": none");
  app.add_option("--log-level", flags.log_level, "debug, info, warning or error");
  app.footer("Example: facet-worker --config deploy/demo/cluster.yaml --pool e4b --index 0");
  CLI11_PARSE(app, argc, argv);
  facet::LogLevel level = facet::kInfo;
  if (!facet::ParseLogLevel(flags.log_level, &level)) {
    std::fprintf(stderr,
                 "facet-worker: --log-level is \"%s\"; debug, info, warning and error exist\n",
                 flags.log_level.c_str());
    return 2;
  }
  facet::SetLogLevel(level);
  facet::LogGrpcAsEvents();
  facet::worker::SignalThread::Block();
  static facet::worker::SignalAction on_signal;  // Lives as long as the signal thread.
  const facet::worker::SignalThread signals([](int) { on_signal.Run(); });
  const facet::Status status = facet::worker::Run(flags, on_signal);
  on_signal.Set([] {});  // What it would have drained is gone.
  if (status.ok()) return 0;
  std::fprintf(stderr, "facet-worker: %s\n", facet::MessageOf(status).c_str());
  return 1;
}
