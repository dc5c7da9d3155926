// facet-worker: reads the config, chooses backend and model, builds, serves, drains. The only
// wiring.
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
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
#include "worker/engine/engine.h"
#include "worker/executor/model_executor.h"
#include "worker/service/worker_metrics.h"
#include "worker/service/worker_session.h"

namespace facet::worker {
namespace {

struct Flags {
  std::string config = "cluster.yaml";
  std::string pool;
  int index = 0;
  std::string device;
  std::string grpc_address;
  std::string metrics_address;
  std::string log_level = "info";
};

// What this process is, out of the cluster's config.
struct WorkerPlace {
  facet::v1::PoolConfig pool;
  facet::v1::ModelConfig model;
  int index = 0;
  std::string grpc_address;
  std::string metrics_address;

  std::string worker_name() const { return StrCat(pool.name(), "/", index); }
};

StatusOr<WorkerPlace> FindPlace(const facet::v1::ClusterConfig& config, const Flags& flags) {
  WorkerPlace place{.index = flags.index};
  std::string names;
  bool found = false;
  for (const facet::v1::PoolConfig& pool : config.pools()) {
    names += (names.empty() ? "" : ", ") + pool.name();
    if (pool.name() != flags.pool && !(flags.pool.empty() && config.pools_size() == 1)) continue;
    place.pool = pool;
    found = true;
  }
  if (!found) return NotFound("--pool is \"", flags.pool, "\"; the config has ", names);
  if (flags.index < 0 || flags.index >= std::max(1, place.pool.workers_size())) {
    return InvalidArgument("--index is ", flags.index, "; pool ", place.pool.name(), " has ",
                           place.pool.workers_size(), " workers");
  }
  for (const facet::v1::ModelConfig& model : config.models()) {
    if (model.name() == place.pool.model()) place.model = model;
  }
  if (flags.index < place.pool.workers_size()) {
    place.grpc_address = place.pool.workers(flags.index).grpc_address();
    place.metrics_address = place.pool.workers(flags.index).metrics_address();
  }
  if (!flags.grpc_address.empty()) place.grpc_address = flags.grpc_address;
  if (!flags.metrics_address.empty()) place.metrics_address = flags.metrics_address;
  if (!flags.device.empty()) place.pool.set_device(flags.device);
  if (place.grpc_address.empty()) place.grpc_address = "127.0.0.1:0";
  if (place.metrics_address.empty()) place.metrics_address = "off";
  return place;
}

StatusOr<std::unique_ptr<kernels::Backend>> MakeBackend(const facet::v1::PoolConfig& pool) {
  kernels::OpenedBackend opened = kernels::OpenBackend(
      {.device = pool.device(), .cpu_tier = pool.cpu_tier(), .threads = pool.threads()});
  if (opened.backend == nullptr) return InvalidArgument(opened.error);
  return std::move(opened.backend);
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
  if (result.rows[0].finite) return absl::OkStatus();
  return Internal("the first step gave logits that are not finite: are the weights damaged?");
}

// Blocks the signals that end the process in every thread and waits for one of them in its own.
class SignalThread {
 public:
  explicit SignalThread(std::function<void(int)> on_signal) {
    thread_ = std::thread([on_signal = std::move(on_signal)] {
      const sigset_t set = Signals();
      int signal = 0;
      sigwait(&set, &signal);
      on_signal(signal);
    });
    thread_.detach();  // It ends with the process.
  }

  // Before any thread is made.
  static void Block() {
    const sigset_t set = Signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
  }

 private:
  static sigset_t Signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    return set;
  }

  std::thread thread_;
};

int32_t OrDefault(int32_t value, int32_t fallback) { return value > 0 ? value : fallback; }

// What a signal does: while the weights load it ends the process at once.
class SignalAction {
 public:
  void Set(std::function<void()> action) {
    absl::MutexLock lock(&mutex_);
    action_ = std::move(action);
  }

  void Run() {
    std::function<void()> action;
    {
      absl::MutexLock lock(&mutex_);
      action = action_;
    }
    if (action) {
      action();
    } else {
      Log(kInfo, "worker ends before it was ready");
      std::_Exit(0);
    }
  }

 private:
  absl::Mutex mutex_;
  std::function<void()> action_ ABSL_GUARDED_BY(mutex_);
};

Status Run(const Flags& flags, SignalAction& on_signal) {
  const Clock& clock = Clock::Real();
  const int64_t start_ns = clock.NowNs();
  FACET_ASSIGN_OR_RETURN(const facet::v1::ClusterConfig cluster, ReadClusterConfig(flags.config));
  FACET_ASSIGN_OR_RETURN(const WorkerPlace place, FindPlace(cluster, flags));
  const facet::v1::PoolConfig& pool = place.pool;

  // The port answers while the weights load.
  WorkerService service(clock);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(place.grpc_address, grpc::InsecureServerCredentials(), &port);
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

  FACET_ASSIGN_OR_RETURN(std::unique_ptr<kernels::Backend> backend, MakeBackend(pool));
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
             .step_tokens_max = step_tokens_max},
            std::move(backend), [&bar](int64_t done, int64_t total) { bar.Update(done, total); }));
  }
  FACET_RETURN_IF_ERROR(RunCanary(*executor, executor->config().bos_id));

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
  description.set_num_ranks(1);
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
  service.Serve(engine, description, drain);
  health->SetServingStatus(true);
  on_signal.Set(drain);
  Log(kInfo, "worker ready",
      {{"worker", place.worker_name()},
       {"model", place.model.name()},
       {"numerics_id", executor->info().numerics_id},
       {"context_tokens_max", engine.context_tokens_max()},
       {"kv_bytes", executor->info().kv.arena_bytes()},
       {"ready_seconds", static_cast<double>(clock.NowNs() - start_ns) / 1e9}});

  {
    absl::MutexLock lock(&mutex);
    mutex.Await(absl::Condition(&drain_began));
    if (!mutex.AwaitWithTimeout(absl::Condition(&drained), absl::Milliseconds(drain_ms))) {
      Log(kWarning, "drain limit reached", {{"drain_ms_max", drain_ms}});
    }
  }
  page.Unfollow();
  service.Shutdown();
  engine.Stop();
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
  Log(kInfo, "worker ends", {{"worker", place.worker_name()}});
  return absl::OkStatus();
}

}  // namespace
}  // namespace facet::worker

int main(int argc, char** argv) {
  facet::worker::Flags flags;
  CLI::App app("Runs a Gemma 4 model and serves it to Facet routers.", "facet-worker");
  app.add_option("--config", flags.config, "Cluster config (YAML)")->required();
  app.add_option("--pool", flags.pool, "Pool of the config that this worker belongs to");
  app.add_option("--index", flags.index, "Place of this worker in its pool");
  app.add_option("--device", flags.device, "Overrides the pool's device");
  app.add_option("--grpc-address", flags.grpc_address, "Overrides the config; port 0 picks one");
  app.add_option("--metrics-address", flags.metrics_address, "Overrides the config; \"off\": none");
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
