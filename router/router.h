// The router without its fronts: request path, relay shards, workers' connections, and the posts
// between them. Fronts call Accept and OnClientGone; everything else is inside.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "facet/v1/config.pb.h"
#include "metrics_registry.h"
#include "router/accounting/usage_ledger.h"
#include "router/accounting/usage_meter.h"
#include "router/relay.h"
#include "router/request_path.h"
#include "router/routing/worker_client.h"
#include "router/served_model.h"

namespace facet::router {

struct RouterOptions {
  FleetOptions fleet;
  RelayOptions relay;
  std::string router_id;     // Empty: drawn from random_seed.
  uint64_t random_seed = 0;  // Of ids and of seeds that clients leave out.
  std::shared_ptr<grpc::ChannelCredentials> worker_credentials;  // Null: plain text. Create knows.
  // Makes the connection to one worker; empty: a GrpcWorkerClient. Tests put their own here.
  std::function<std::unique_ptr<WorkerLink>(const GrpcWorkerClient::Options&, WorkerLinkListener&)>
      make_link;
};

class Router final : public WorkerLinkListener, public RelayPorts, public RequestPathPorts {
 public:
  // Reads the models' files. config is one that ReadClusterConfig gave.
  static StatusOr<std::unique_ptr<Router>> Create(const v1::ClusterConfig& config,
                                                  const RouterOptions& options,
                                                  const Clock& clock = Clock::Real());

  // As Create, for models that were made elsewhere.
  Router(const v1::ClusterConfig& config,
         std::vector<ServedModel> models,
         const RouterOptions& options,
         const Clock& clock);
  ~Router() override;

  // Called with each new view of the fleet, on the dispatch thread; set before Start.
  void set_snapshot_listener(std::function<void(const FleetSnapshot&)> listener) {
    snapshot_listener_ = std::move(listener);
  }

  void Start();

  // Refuses new requests, waits until the others are done, at most so long, and ends the rest.
  void Drain(int64_t drain_ms_max);

  // Joins all threads; nothing is called back after.
  void Stop();

  // For fronts, any thread. The request ends with exactly one stream->End.
  std::string Accept(ClientRequest request, const std::shared_ptr<AnswerStream>& stream) {
    return request_path_->Accept(std::move(request), stream);
  }

  // After stream->MarkClientGone().
  void OnClientGone(const std::string& request_id) {
    ShardOf(request_id).Post(ClientGone{request_id});
  }

  const std::vector<ServedModel>& models() const { return models_; }

  const Clock& clock() const { return clock_; }

  MetricsPage<RouterMetrics>& metrics() { return metrics_; }

  std::shared_ptr<const FleetSnapshot> snapshot() const { return request_path_->snapshot(); }

  bool draining() const { return draining_; }

  v1::ListModelsResponse ListModels() const;
  v1::GetStatusResponse GetStatus() const;
  StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request) const;

  // RequestPathPorts.
  RelayShard& ShardOf(const std::string& request_id) override;
  void PostToAllShards(const WorkerLost& lost) override;

  WorkerLink& Link(int worker) override { return *links_[static_cast<size_t>(worker)]; }

  void OnSnapshot(const FleetSnapshot& snapshot) override;

  // RelayPorts.
  void Requeue(QueuedRequest request) override;
  void RemoveFromQueue(const ServedModel& model, const std::string& request_id) override;
  void ReturnCredit(int worker, uint64_t session, int64_t prefill_tokens) override;
  void SendToWorker(int worker, uint64_t session, worker::v1::RouterMessage message) override;
  void FrameDone(int worker, uint64_t session) override;
  void Settle(std::vector<v1::UsageRecord> records, int worker, uint64_t session) override;

  void RequestEnded() override { request_path_->OnRequestEnded(); }

  // WorkerLinkListener.
  void OnDescribed(int worker, StatusOr<worker::v1::DescribeResponse> described) override;
  int OnMessage(int worker, uint64_t session, worker::v1::WorkerMessage message) override;
  void OnSessionEnded(int worker, uint64_t session, const Status& status) override;

 private:
  size_t ShardIndex(const std::string& request_id) const;
  int RelayFrame(int worker, uint64_t session, worker::v1::StepFrame frame);
  int RelaySettled(int worker, uint64_t session, worker::v1::Settled settled);
  void Confirm(const UsageLedger::Source& source, const std::vector<std::string>& keys);

  const std::string cluster_;
  const Clock& clock_;
  const int64_t started_ns_;
  const std::vector<ServedModel> models_;
  std::atomic<bool> draining_{false};
  MetricsPage<RouterMetrics> metrics_;
  UsageMeter usage_meter_;
  const std::string router_id_;
  UsageLedger usage_ledger_;
  std::function<void(const FleetSnapshot&)> snapshot_listener_;
  std::vector<std::unique_ptr<RelayShard>> shards_;
  std::unique_ptr<RequestPath> request_path_;
  std::vector<std::unique_ptr<WorkerLink>> links_;  // After what they call back.
  std::vector<std::thread> threads_;
};

}  // namespace facet::router
