#include "router/router.h"

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "base/log.h"
#include "base/version.h"
#include "proto/grpc_status.h"
#include "proto/grpc_tls.h"

namespace facet::router {
namespace {

std::vector<WorkerConfig> WorkersOf(const v1::ClusterConfig& config,
                                    const std::vector<ServedModel>& models) {
  std::vector<WorkerConfig> workers;
  for (const v1::PoolConfig& pool : config.pools()) {
    const auto model = std::find_if(models.begin(), models.end(), [&pool](const ServedModel& it) {
      return it.name == pool.model();
    });
    for (int i = 0; i < pool.workers_size(); ++i) {
      WorkerConfig& worker = workers.emplace_back();
      worker.pool = pool.name();
      worker.index = i;
      worker.grpc_address = pool.workers(i).grpc_address();
      worker.model = pool.model();
      if (model == models.end()) continue;
      worker.config_digest = model->config_digest;
      worker.tokenizer_digest = model->tokenizer_digest;
    }
  }
  return workers;
}

std::map<std::string, v1::SloConfig> SlosOf(const v1::ClusterConfig& config) {
  std::map<std::string, v1::SloConfig> slos;
  for (const v1::ModelConfig& model : config.models()) slos[model.name()] = model.slo();
  return slos;
}

}  // namespace

StatusOr<std::unique_ptr<Router>> Router::Create(const v1::ClusterConfig& config,
                                                 const RouterOptions& options,
                                                 const Clock& clock) {
  std::vector<ServedModel> models;
  for (const v1::ModelConfig& model_config : config.models()) {
    FACET_ASSIGN_OR_RETURN(ServedModel model, ServedModel::Load(model_config));
    models.push_back(std::move(model));
  }
  RouterOptions complete = options;
  if (config.has_worker_tls()) {
    FACET_ASSIGN_OR_RETURN(complete.worker_credentials,
                           WorkerChannelCredentials(config.worker_tls()));
  }
  return std::make_unique<Router>(config, std::move(models), complete, clock);
}

Router::Router(const v1::ClusterConfig& config,
               std::vector<ServedModel> models,
               const RouterOptions& options,
               const Clock& clock)
    : cluster_(config.name()),
      clock_(clock),
      started_ns_(clock.NowNs()),
      models_(std::move(models)),
      usage_meter_(metrics_, SlosOf(config)),
      router_id_(options.router_id.empty() ? StrCat("router-", options.random_seed)
                                           : options.router_id),
      usage_ledger_({.directory = config.ledger_directory(),
                     .name = config.router().name(),
                     .router_id = router_id_},
                    clock_,
                    metrics_,
                    [this](const auto& source, const auto& keys) { Confirm(source, keys); }) {
  const v1::RouterConfig& router = config.router();
  for (int i = 0; i < std::max(router.relay_threads(), 1); ++i) {
    shards_.push_back(
        std::make_unique<RelayShard>(options.relay, clock_, metrics_, usage_meter_, *this));
  }
  std::vector<WorkerConfig> workers = WorkersOf(config, models_);
  const RequestPathOptions path_options{
      .prepare_threads = router.prepare_threads(),
      .queue_requests_max = router.queue_requests_max(),
      .queue_wait_ms_max = router.queue_wait_ms_max(),
      .deadline_ms_default = router.deadline_ms_default(),
      .random_seed = options.random_seed,
  };
  request_path_ = std::make_unique<RequestPath>(
      path_options, models_, Fleet(workers, options.fleet), clock_, metrics_, usage_meter_, *this);
  for (size_t i = 0; i < workers.size(); ++i) {
    const GrpcWorkerClient::Options link_options{.worker = static_cast<int>(i),
                                                 .grpc_address = workers[i].grpc_address,
                                                 .router_id = router_id_,
                                                 .credentials = options.worker_credentials,
                                                 .server_name = config.worker_tls().server_name()};
    links_.push_back(options.make_link ? options.make_link(link_options, *this)
                                       : std::make_unique<GrpcWorkerClient>(link_options, *this));
  }
}

Router::~Router() { Stop(); }

void Router::Start() {
  for (const auto& shard : shards_) threads_.emplace_back([&shard] { shard->Run(); });
  request_path_->Start();
  usage_ledger_.Start();
}

void Router::Drain(int64_t drain_ms_max) {
  constexpr int64_t kEndMs = 1000;
  if (draining_.exchange(true) && request_path_->num_live() == 0) return;
  request_path_->BeginDrain();
  Log(kInfo, "drain begins", {{"requests", request_path_->num_live()}});
  const bool idle = request_path_->AwaitIdle(absl::Milliseconds(drain_ms_max));
  if (idle) return;
  Log(kWarning, "drain ends requests", {{"requests", request_path_->num_live()}});
  const Status status =
      WithReason(Unavailable("the router ended before the answer was complete"), "DRAINING");
  for (const auto& shard : shards_) shard->Post(EndAll{status});
  request_path_->AwaitIdle(absl::Milliseconds(kEndMs));
}

void Router::Stop() {
  if (threads_.empty()) return;
  request_path_->Stop();
  for (const auto& shard : shards_) shard->Stop();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  usage_ledger_.Stop();  // The last that came is written and confirmed.
  links_.clear();        // Waits for the last callback; posts to closed inboxes are dropped.
}

v1::ListModelsResponse Router::ListModels() const {
  v1::ListModelsResponse response;
  const std::shared_ptr<const FleetSnapshot> fleet = snapshot();
  for (const ServedModel& model : models_) {
    v1::ModelInfo& info = *response.add_models();
    info.set_name(model.name);
    info.set_context_tokens_max(fleet->ContextTokensMax(model.name));
    std::set<std::string> numerics_ids;
    for (const WorkerView& worker : fleet->workers) {
      if (!worker.candidate.ready || worker.status.model() != model.name) continue;
      info.set_workers_ready(info.workers_ready() + 1);
      numerics_ids.insert(worker.numerics_id);
    }
    if (numerics_ids.size() == 1) info.set_numerics_id(*numerics_ids.begin());
  }
  return response;
}

v1::GetStatusResponse Router::GetStatus() const {
  v1::GetStatusResponse response;
  response.set_cluster(cluster_);
  response.set_version(kVersion);
  response.set_uptime_seconds(static_cast<double>(clock_.NowNs() - started_ns_) / 1e9);
  const std::shared_ptr<const FleetSnapshot> fleet = snapshot();
  for (const WorkerView& worker : fleet->workers) *response.add_workers() = worker.status;
  const int32_t queued = request_path_->num_queued();
  response.set_requests_queued(queued);
  response.set_requests_running(std::max(request_path_->num_live() - queued, 0));
  return response;
}

StatusOr<v1::TokenizeResponse> Router::Tokenize(const v1::TokenizeRequest& request) const {
  FACET_ASSIGN_OR_RETURN(const ServedModel* const model, FindModel(request.model(), models_));
  if (!model->tokenizer.has_value()) {
    return FailedPrecondition("model ", model->name, " has no tokenizer");
  }
  FACET_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, model->tokenizer->Encode(request.text()));
  v1::TokenizeResponse response;
  response.mutable_ids()->Assign(ids.begin(), ids.end());
  return response;
}

size_t Router::ShardIndex(const std::string& request_id) const {
  return std::hash<std::string>()(request_id) % shards_.size();
}

RelayShard& Router::ShardOf(const std::string& request_id) {
  return *shards_[ShardIndex(request_id)];
}

void Router::PostToAllShards(const WorkerLost& lost) {
  for (const auto& shard : shards_) shard->Post(lost);
}

void Router::OnSnapshot(const FleetSnapshot& snapshot) {
  if (snapshot_listener_) snapshot_listener_(snapshot);
}

void Router::Requeue(QueuedRequest request) { request_path_->PostRequeue(std::move(request)); }

void Router::RemoveFromQueue(const ServedModel& model, const std::string& request_id) {
  request_path_->PostRemove(model, request_id);
}

void Router::ReturnCredit(int worker, uint64_t session, int64_t prefill_tokens) {
  request_path_->PostReturnCredit(worker, session, prefill_tokens);
}

void Router::SendToWorker(int worker, uint64_t session, worker::v1::RouterMessage message) {
  Link(worker).Send(session, std::move(message));
}

void Router::FrameDone(int worker, uint64_t session) { Link(worker).FrameDone(session); }

void Router::Settle(std::vector<v1::UsageRecord> records, int worker, uint64_t session) {
  usage_ledger_.Add(std::move(records), {.worker = worker, .session = session});
}

void Router::Confirm(const UsageLedger::Source& source, const std::vector<std::string>& keys) {
  worker::v1::RouterMessage message;
  message.mutable_confirm()->mutable_keys()->Assign(keys.begin(), keys.end());
  SendToWorker(source.worker, source.session, std::move(message));
}

void Router::OnDescribed(int worker, StatusOr<worker::v1::DescribeResponse> described) {
  request_path_->PostDescribed(worker, std::move(described));
}

int Router::OnMessage(int worker, uint64_t session, worker::v1::WorkerMessage message) {
  switch (message.message_case()) {
    case worker::v1::WorkerMessage::kStep:
      request_path_->PostFrameReport(worker, session, message.step());
      return RelayFrame(worker, session, std::move(*message.mutable_step()));
    case worker::v1::WorkerMessage::kHeartbeat:
      request_path_->PostHeartbeat(worker, session, std::move(*message.mutable_heartbeat()));
      return 0;
    case worker::v1::WorkerMessage::kSettled:
      return RelaySettled(worker, session, std::move(*message.mutable_settled()));
    case worker::v1::WorkerMessage::kRefused: {
      const std::string request_id = message.refused().request_id();
      ShardOf(request_id)
          .Post(SubmitWasRefused{.worker = worker,
                                 .session = session,
                                 .refused = std::move(*message.mutable_refused())});
      return 1;
    }
    default:
      return 0;  // A newer worker's message.
  }
}

// Gives each shard its part of the frame; returns how many got one.
int Router::RelayFrame(int worker, uint64_t session, worker::v1::StepFrame frame) {
  if (frame.deltas().empty()) return 0;
  if (shards_.size() == 1) {
    shards_.front()->Post(
        FrameArrived{.worker = worker, .session = session, .frame = std::move(frame)});
    return 1;
  }
  std::vector<worker::v1::StepFrame> parts(shards_.size());
  for (worker::v1::TokenDelta& delta : *frame.mutable_deltas()) {
    *parts[ShardIndex(delta.request_id())].add_deltas() = std::move(delta);
  }
  int posted = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].deltas().empty()) continue;
    shards_[i]->Post(
        FrameArrived{.worker = worker, .session = session, .frame = std::move(parts[i])});
    ++posted;
  }
  return posted;
}

// Gives each shard the records of its requests; returns how many got some.
int Router::RelaySettled(int worker, uint64_t session, worker::v1::Settled settled) {
  std::vector<std::vector<v1::UsageRecord>> parts(shards_.size());
  for (v1::UsageRecord& record : *settled.mutable_records()) {
    parts[ShardIndex(record.request_id())].push_back(std::move(record));
  }
  int posted = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].empty()) continue;
    shards_[i]->Post(
        SettledArrived{.worker = worker, .session = session, .records = std::move(parts[i])});
    ++posted;
  }
  return posted;
}

void Router::OnSessionEnded(int worker, uint64_t session, const Status& status) {
  request_path_->PostSessionEnded(worker, session, status);
}

}  // namespace facet::router
