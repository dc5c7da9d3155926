// facet-worker: reads the config, chooses backend and model, builds, serves, drains. The only
// wiring.
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/file.h"
#include "base/http_pages.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/progress_bar.h"
#include "kernels/open_backend.h"
#include "proto/config_file.h"
#include "proto/grpc_health.h"
#include "proto/grpc_log.h"
#include "proto/grpc_status.h"
#include "proto/grpc_tls.h"
#include "worker/comm/gloo_communicator.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/comm/nccl_library.h"
#include "worker/end_signals.h"
#include "worker/engine/engine.h"
#include "worker/engine/warm_up.h"
#include "worker/executor/model_executor.h"
#include "worker/executor/rank_group.h"
#include "worker/service/price_file.h"
#include "worker/service/worker_metrics.h"
#include "worker/service/worker_session.h"
#include "worker/worker_place.h"

namespace facet::worker {
namespace {

StatusOr<std::unique_ptr<kernels::Backend>> MakeBackend(const facet::v1::PoolConfig& pool) {
  kernels::OpenedBackend opened = kernels::OpenBackend({.device = pool.device(),
                                                        .cpu_tier = pool.cpu_tier(),
                                                        .threads = pool.threads(),
                                                        .ple_on_host = pool.ple_on_host(),
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
    StatusOr<int32_t> rank = GroupControl::AwaitAssignment(options, absl::Seconds(60));
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

// How long sessions stay open after a drain began, even if nothing runs. Routers hear of it with
// the next heartbeat, 100 ms later, and frames and requests may be on their way till then: a
// request is refused, and its router gives it to another worker; without a session it would be
// lost.
constexpr absl::Duration kDrainNotice = absl::Seconds(1);

constexpr absl::Duration kHealthTimeout = absl::Seconds(4);

StepModel StepModelOf(const facet::v1::StepModelConfig& config) {
  return {.base_ns = config.base_ns(),
          .prefill_token_ns = config.prefill_token_ns(),
          .prefill_token_context_ns = config.prefill_token_context_ns(),
          .decode_row_ns = config.decode_row_ns(),
          .decode_context_ns = config.decode_context_ns(),
          .predicts = true};
}

// Empty if no ledger is kept.
std::string JournalPath(const facet::v1::ClusterConfig& cluster, const WorkerPlace& place) {
  if (cluster.ledger_directory().empty()) return "";
  std::string pool = place.pool.name();
  std::replace(pool.begin(), pool.end(), '/', '_');
  return StrCat(cluster.ledger_directory(), "/worker-", pool, "-", place.index, ".jsonl");
}

int32_t OrDefault(int32_t value, int32_t fallback) { return value > 0 ? value : fallback; }

// How long a worker that has drained waits until routers have its last usage records.
constexpr absl::Duration kLastConfirmation = absl::Seconds(1);

struct Flags {
  std::string config = "cluster.yaml";
  PlaceFlags place;
  std::string log_level = "info";
  bool check_config = false;
  bool health = false;
};

// One worker, from its port to its end. Members come to life in the order in which they stand.
class WorkerProcess {
 public:
  WorkerProcess(const facet::v1::ClusterConfig& cluster,
                const WorkerPlace& place,
                SignalAction& on_signal)
      : cluster_(cluster),
        place_(place),
        on_signal_(on_signal),
        service_(clock_, {.path = JournalPath(cluster, place)}) {}

  ~WorkerProcess() {
    on_signal_.Set([] {});  // What it would have drained goes.
  }

  Status Run() {
    FACET_RETURN_IF_ERROR(Listen());  // The port answers while the weights load.
    if (place_.is_rank()) FACET_RETURN_IF_ERROR(TakeRank());
    FACET_RETURN_IF_ERROR(Load());
    FACET_RETURN_IF_ERROR(StartEngine());
    FACET_RETURN_IF_ERROR(Describe());
    page_.Follow([this] { return engine_->Stats(); }, [this] { return service_.journal().Stats(); },
                 {.pool = pool().name(),
                  .model = place_.model.name(),
                  .device_class = device_class(),
                  .worker = place_.worker_name(),
                  .peak_flops = pool().peak_flops(),
                  .peak_bytes_per_second = pool().peak_hbm_bytes_per_second(),
                  .sequences_max = executor_->info().running_max,
                  .certificate_file = cluster_.worker_tls().cert_file()});
    on_signal_.Set([this] { Drain(); });
    if (place_.is_rank()) {
      JoinGroup();
    } else {
      Serve(/*group_epoch=*/0);
    }
    Log(kInfo, "worker ready",
        {{"worker", place_.worker_name()},
         {"model", place_.model.name()},
         {"numerics_id", executor_->info().numerics_id},
         {"context_tokens_max", engine_->context_tokens_max()},
         {"kv_bytes", executor_->info().kv.arena_bytes()},
         {"ready_seconds", static_cast<double>(clock_.NowNs() - start_ns_) / 1e9}});
    Status fatal = AwaitEnd();
    End(fatal.ok() ? drain_max() : absl::ZeroDuration());
    return fatal;
  }

 private:
  Status Listen() {
    FACET_ASSIGN_OR_RETURN(auto credentials, WorkerServerCredentials(cluster_));
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(place_.grpc_address, credentials, &port);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.SetMaxReceiveMessageSize(64 << 20);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return Unavailable("cannot listen on ", place_.grpc_address);
    }
    SetServing(false);
    if (place_.metrics_address != "off") {
      FACET_ASSIGN_OR_RETURN(pages_, HttpPages::Start(place_.metrics_address, Pages()));
    }
    Log(kInfo, "worker listens",
        {{"worker", place_.worker_name()},
         {"grpc_port", port},
         {"metrics_port", pages_ == nullptr ? 0 : pages_->port()}});
    return absl::OkStatus();
  }

  HttpPages::Pages Pages() const {
    return {{"/metrics",
             [this] {
               return HttpPage{.content_type = kMetricsContentType, .body = MetricsText(page_)};
             }},
            {"/livez", [] { return HttpPage{.body = "ok\n"}; }},
            {"/readyz", [this] {
               return serving_ ? HttpPage{.body = "ok\n"}
                               : HttpPage{.code = 503, .body = "not ready\n"};
             }}};
  }

  Status TakeRank() {
    FACET_ASSIGN_OR_RETURN(group_options_, GroupOptionsOf(place_));
    if (UsesNccl(place_)) {  // Said before anything is loaded: no attempt to form would mend it.
      FACET_RETURN_IF_ERROR(NcclLibrary::Open(pool().expert_group().nccl_library()).status());
    }
    FACET_ASSIGN_OR_RETURN(group_options_.rank, AwaitRank(place_, group_options_, service_));
    share_ = {.rank = group_options_.rank, .num_ranks = group_options_.num_ranks};
    return absl::OkStatus();
  }

  Status Load() {
    FACET_ASSIGN_OR_RETURN(std::unique_ptr<kernels::Backend> backend, MakeBackend(pool()));
    stream_ = backend->device_stream();
    ProgressBar bar(StrCat("loading ", place_.model.name()));
    FACET_ASSIGN_OR_RETURN(
        executor_,
        ModelExecutor::Create(
            {.model_directory = place_.model.directory(),
             .dtype = pool().dtype() == "f32" ? kernels::DType::kF32 : kernels::DType::kBf16,
             .kv_bytes = pool().kv_bytes() > 0 ? pool().kv_bytes() : int64_t{256} << 20,
             .running_max = OrDefault(pool().running_max(), 64),
             .step_tokens_max = OrDefault(pool().step_tokens_max(), 512),
             .experts = share_,
             .group_timeout = absl::Milliseconds(pool().expert_group().step_ms_max())},
            std::move(backend), [&bar](int64_t done, int64_t total) { bar.Update(done, total); }));
    // A rank computes nothing alone.
    return place_.is_rank() ? absl::OkStatus() : RunCanary(*executor_, executor_->config().bos_id);
  }

  // By what requests share steps: the config's, or what was timed. Ranks cannot be timed before
  // they form a group.
  StatusOr<StepModel> ChooseStepModel(int32_t context_tokens_max) {
    if (pool().has_step_model()) return StepModelOf(pool().step_model());
    if (place_.is_rank()) return StepModel();
    return WarmUp(*executor_, context_tokens_max);
  }

  // All ranks must weigh rows alike: if one of them has not been timed together with the others,
  // all are.
  Status WarmUpWithRanks() {
    if (pool().has_step_model()) return absl::OkStatus();
    FACET_ASSIGN_OR_RETURN(const int64_t num_cold,
                           SumOfRanks(*executor_, std::exchange(warm_, false) ? 0 : 1));
    if (num_cold > 0) {
      FACET_ASSIGN_OR_RETURN(const StepModel model,
                             WarmUp(*executor_, engine_->context_tokens_max()));
      engine_->SetStepModel(model);
    }
    warm_ = true;
    return absl::OkStatus();
  }

  Status StartEngine() {
    const ExecutorInfo& info = executor_->info();
    const int32_t wanted = pool().context_tokens_max();
    const int32_t longest =
        wanted > 0 ? std::min(wanted, info.context_tokens_max) : info.context_tokens_max;
    FACET_ASSIGN_OR_RETURN(const StepModel step_model, ChooseStepModel(longest));
    FACET_ASSIGN_OR_RETURN(prices_, PriceFile::Open({.path = cluster_.prices_file(),
                                                     .device_class = device_class(),
                                                     .usd_per_hour = pool().price_usd_per_hour()}));
    engine_.emplace(EngineOptions{.scheduler = {.running_max = info.running_max,
                                                .waiting_max = OrDefault(pool().waiting_max(), 16),
                                                .step_tokens_max = info.step_tokens_max,
                                                .chunk_tokens_max = info.step_tokens_max,
                                                .context_tokens_max = longest},
                                  .prices = prices_->prices(),
                                  .step_model = step_model},
                    *executor_, service_, clock_);
    if (engine_->context_tokens_max() < wanted) {
      return InvalidArgument("context_tokens_max is ", wanted,
                             "; kv_bytes and the model hold at most ",
                             engine_->context_tokens_max());
    }
    service_.journal().Start();
    engine_->SetHeldSince(start_ns_);
    prices_->SetListener([this](PriceSchedule prices) { engine_->SetPrices(std::move(prices)); });
    prices_->Follow();
    engine_->Start();
    return absl::OkStatus();
  }

  Status Describe() {
    const std::string& directory = place_.model.directory();
    description_.set_model(place_.model.name());
    description_.set_pool(pool().name());
    description_.set_index(place_.index);
    FACET_ASSIGN_OR_RETURN(const std::string config_json, ReadFile(directory + "/config.json"));
    description_.set_config_digest(Sha256Hex(config_json));
    const StatusOr<std::string> tokenizer = ReadFile(directory + "/tokenizer.json");
    if (tokenizer.ok()) description_.set_tokenizer_digest(Sha256Hex(*tokenizer));
    description_.set_weights_digest(executor_->weights_digest());
    description_.set_context_tokens_max(engine_->context_tokens_max());
    description_.set_numerics_id(executor_->info().numerics_id);
    description_.set_device_class(device_class());
    description_.set_num_ranks(share_.num_ranks);
    description_.set_rank(share_.rank);
    if (place_.is_rank()) description_.set_group(pool().name());
    description_.set_worker_epoch(static_cast<uint64_t>(clock_.UnixNs()));
    description_.set_kv_bytes_total(executor_->info().kv.arena_bytes());
    description_.set_vocab(executor_->info().vocab);
    return absl::OkStatus();
  }

  void Serve(int64_t group_epoch) {
    description_.set_group_epoch(group_epoch);
    service_.Serve(*engine_, description_, [this] { Drain(); });
    absl::MutexLock lock(&mutex_);
    if (!drain_began_) SetServing(true);
  }

  void JoinGroup() {
    engine_->Suspend(Unavailable("it has not been formed yet"));
    group_.emplace(
        [this](int64_t epoch_min, absl::Duration timeout) {
          group_options_.epoch_min = epoch_min;
          return FormGroup(place_, group_options_, stream_, timeout);
        },
        *executor_,
        RankGroup::Events{
            .on_formed =
                [this](int64_t epoch) {
                  Log(kInfo, "group formed",
                      {{"group", pool().name()}, {"rank", share_.rank}, {"epoch", epoch}});
                  // The engine's word of the last loss must not come after.
                  engine_->Resume([this, epoch] {
                    // If not, the group has ended; on_not_formed says.
                    if (!WarmUpWithRanks().ok()) return;
                    executor_->ServeOthers();
                    Serve(epoch);
                  });
                },
            .on_not_formed = [this](const Status& cause) { OnNotFormed(cause); },
            .on_peer_leaves = [this] { Drain(); }},
        FirstEpochMin());
  }

  void OnNotFormed(const Status& cause) {
    Log(kWarning, "group not formed",
        {{"group", pool().name()}, {"rank", share_.rank}, {"cause", MessageOf(cause)}});
    SetServing(false);
    engine_->Suspend(cause);
    service_.SetNotReady(NotInGroup(cause));
    if (!NeverInGroup(cause)) return;
    absl::MutexLock lock(&mutex_);
    fatal_ = cause;
  }

  // New submits are refused, running ones end, then the process does. A second cause or the limit
  // ends it at once.
  void Drain() {
    {
      absl::MutexLock lock(&mutex_);
      if (std::exchange(drain_began_, true)) return;
    }
    Log(kInfo, "worker drains", {{"worker", place_.worker_name()}});
    SetServing(false);
    engine_->Drain([this] {
      absl::MutexLock lock(&mutex_);
      drained_ = true;
    });
  }

  // Until what runs has ended and routers know of it, or the limit; an error is why no group will
  // ever have this rank.
  Status AwaitEnd() {
    FACET_RETURN_IF_ERROR(AwaitDrain());
    const absl::Time heard = absl::Now() + std::min(kDrainNotice, drain_max());
    AwaitDrained();
    absl::SleepFor(heard - absl::Now());
    return absl::OkStatus();
  }

  Status AwaitDrain() {
    absl::MutexLock lock(&mutex_);
    const auto ends = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return drain_began_ || !fatal_.ok();
    };
    mutex_.Await(absl::Condition(&ends));
    return fatal_;
  }

  void AwaitDrained() {
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&drained_), drain_max())) return;
    Log(kWarning, "drain limit reached",
        {{"drain_ms_max", absl::ToInt64Milliseconds(drain_max())}});
  }

  void End(absl::Duration for_other_ranks) {
    if (group_) group_->Leave(for_other_ranks);
    group_.reset();
    page_.Unfollow();
    service_.journal().AwaitConfirmed(kLastConfirmation);
    service_.Shutdown();
    engine_->Stop();
    service_.journal().Stop();
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
    Log(kInfo, "worker ends", {{"worker", place_.worker_name()}});
  }

  const facet::v1::PoolConfig& pool() const { return place_.pool; }

  std::string device_class() const {
    if (!pool().device_class().empty()) return pool().device_class();
    return pool().device() == "cpu" ? "cpu" : "cuda";
  }

  absl::Duration drain_max() const {
    return absl::Milliseconds(pool().drain_ms_max() > 0 ? pool().drain_ms_max() : 30'000);
  }

  // What probes and load balancers are told.
  void SetServing(bool serving) {
    serving_ = serving;
    server_->GetHealthCheckService()->SetServingStatus(serving);
  }

  const Clock& clock_ = Clock::Real();
  const int64_t start_ns_ = clock_.NowNs();
  const facet::v1::ClusterConfig& cluster_;
  const WorkerPlace& place_;
  SignalAction& on_signal_;
  absl::Mutex mutex_;
  bool drain_began_ ABSL_GUARDED_BY(mutex_) = false;
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;
  Status fatal_ ABSL_GUARDED_BY(mutex_);

  std::atomic<bool> serving_{false};
  WorkerService service_;
  std::unique_ptr<grpc::Server> server_;
  WorkerMetricsPage page_;
  std::unique_ptr<HttpPages> pages_;
  GroupControl::Options group_options_;
  ExpertShare share_;
  const kernels::DeviceStream* stream_ = nullptr;  // The backend's, if it has one.
  std::unique_ptr<ModelExecutor> executor_;
  std::optional<Engine> engine_;
  std::unique_ptr<PriceFile> prices_;  // After the engine, which it tells.
  v1::DescribeResponse description_;
  bool warm_ = false;  // Of a rank: timed together with all others. The engine's thread.
  std::optional<RankGroup> group_;
};

// Whether the worker that runs in this place serves.
Status CheckHealth(const facet::v1::ClusterConfig& cluster, const WorkerPlace& place) {
  return CheckServing(place.grpc_address,
                      cluster.has_worker_tls() ? HealthChannelCredentials(&cluster.worker_tls())
                                               : grpc::InsecureChannelCredentials(),
                      kHealthTimeout);
}

Status Run(const Flags& flags, SignalAction& on_signal) {
  FACET_ASSIGN_OR_RETURN(const facet::v1::ClusterConfig cluster, ReadClusterConfig(flags.config));
  FACET_ASSIGN_OR_RETURN(const WorkerPlace place, FindPlace(cluster, flags.place));
  FACET_RETURN_IF_ERROR(CheckWorkerAddress(cluster, "--grpc-address", place.grpc_address));
  if (flags.check_config) return absl::OkStatus();
  if (flags.health) return CheckHealth(cluster, place);
  return WorkerProcess(cluster, place, on_signal).Run();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Runs a Gemma 4 model and serves it to Facet routers.", "facet-worker");
  app.add_option("--config", flags.config, "Cluster config (YAML)")->required();
  app.add_option("--pool", flags.place.pool, "Pool of the config that this worker belongs to");
  app.add_option("--index", flags.place.index, "Place of this worker in its pool");
  app.add_option("--device", flags.place.device,
                 "Overrides the pool's device: cpu, cuda or cuda:N");
  app.add_option("--grpc-address", flags.place.grpc_address,
                 "Overrides the config; port 0 picks one");
  app.add_option("--metrics-address", flags.place.metrics_address,
                 "Overrides the config; \"off\": none");
  app.add_option("--log-level", flags.log_level, "debug, info, warning or error");
  app.add_flag("--check-config", flags.check_config,
               "Reads config and flags, says what is wrong, ends");
  app.add_flag("--health", flags.health,
               "Asks the worker that runs with these flags; exit status 0 if it serves");
  app.footer("Example: facet-worker --config deploy/demo/cluster.yaml --pool e4b --index 0");
  CLI11_PARSE(app, argc, argv);
  LogLevel level = kInfo;
  if (!ParseLogLevel(flags.log_level, &level)) {
    std::fprintf(stderr,
                 "facet-worker: --log-level is \"%s\"; debug, info, warning and error exist\n",
                 flags.log_level.c_str());
    return 2;
  }
  SetLogLevel(level);
  LogGrpcAsEvents();
  SignalThread::Block();
  static SignalAction on_signal;  // Lives as long as the signal thread.
  const SignalThread signals([](int) { on_signal.Run(); });
  const Status status = Run(flags, on_signal);
  if (status.ok()) return 0;
  std::fprintf(stderr, "facet-worker: %s\n", MessageOf(status).c_str());
  return 1;
}

}  // namespace
}  // namespace facet::worker

int main(int argc, char** argv) {
  try {
    return facet::worker::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "facet-worker: %s\n", error.what());
    return 1;
  }
}
