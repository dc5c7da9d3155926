// From a client's request to a worker: Prepare() on a small pool, Dispatch() on the one dispatch
// thread, which owns the fair queues, the credits and the fleet.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/thread_checker.h"
#include "metrics_registry.h"
#include "router/accounting/usage_meter.h"
#include "router/admission/admission.h"
#include "router/admission/fair_queue.h"
#include "router/answer_stream.h"
#include "router/client_request.h"
#include "router/queued_request.h"
#include "router/relay.h"
#include "router/routing/fleet.h"
#include "router/routing/worker_client.h"
#include "router/served_model.h"

namespace facet::router {

struct RequestPathOptions {
  int prepare_threads = 1;
  int32_t queue_requests_max = 1024;
  int64_t queue_wait_ms_max = 30'000;
  int64_t deadline_ms_default = 600'000;
  int32_t live_requests_max = 16'384;  // Accepted and not ended, wherever they are.
  uint64_t random_seed = 0;            // Of request ids and of seeds that clients leave out.
};

// What the request path asks of the rest of the router; all return at once.
class RequestPathPorts {
 public:
  virtual ~RequestPathPorts() = default;

  virtual RelayShard& ShardOf(const std::string& request_id) = 0;
  virtual void PostToAllShards(const WorkerLost& lost) = 0;
  virtual WorkerLink& Link(int worker) = 0;
  virtual void OnSnapshot(const FleetSnapshot& snapshot) = 0;
};

class RequestPath {
 public:
  // Everything lent must outlive the path.
  RequestPath(RequestPathOptions options,
              const std::vector<ServedModel>& models,
              Fleet fleet,
              const Clock& clock,
              MetricsPage<RouterMetrics>& metrics,
              UsageMeter& usage_meter,
              RequestPathPorts& ports);
  ~RequestPath();

  // Starts the threads. Without it, tests call Prepare and Turn themselves.
  void Start();
  void Stop();

  // Any thread. Takes the request, which ends with exactly one stream->End, and returns its id.
  std::string Accept(ClientRequest request, const std::shared_ptr<AnswerStream>& stream);

  // New requests are refused from now on.
  void BeginDrain() { draining_ = true; }

  // True once no request is left, false if that takes longer.
  bool AwaitIdle(absl::Duration timeout);

  // Any thread: what workers and shards have to say to the dispatch thread.
  void PostRequeue(QueuedRequest request);
  void PostRemove(const ServedModel& model, const std::string& request_id);
  void PostReturnCredit(int worker, uint64_t session, int64_t prefill_tokens);
  void PostDescribed(int worker, StatusOr<worker::v1::DescribeResponse> described);
  void PostFrameReport(int worker, uint64_t session, const worker::v1::StepFrame& frame);
  void PostHeartbeat(int worker, uint64_t session, worker::v1::Heartbeat heartbeat);
  void PostSessionEnded(int worker, uint64_t session, const Status& status);
  void OnRequestEnded();

  std::shared_ptr<const FleetSnapshot> snapshot() const;

  int32_t num_queued() const { return num_preparing_ + num_waiting_; }

  int32_t num_live() const;

  struct Accepted {
    std::string request_id;
    ClientRequest request;
    std::shared_ptr<AnswerStream> stream;
  };

  // Stages 1 to 3: admit, render, tokenize; then the request is its relay shard's.
  void Prepare(Accepted accepted);

  // What the dispatch thread hears.
  struct Remove {
    const ServedModel* model = nullptr;
    std::string request_id;
  };

  struct ReturnCredit {
    int worker = 0;
    uint64_t session = 0;
    int64_t prefill_tokens = 0;
  };

  struct Described {
    int worker = 0;
    StatusOr<worker::v1::DescribeResponse> response;
  };

  struct FrameReport {
    int worker = 0;
    uint64_t session = 0;
    uint64_t step = 0;
    worker::v1::Credits credits;
    worker::v1::Load load;
  };

  struct HeartbeatReport {
    int worker = 0;
    uint64_t session = 0;
    worker::v1::Heartbeat heartbeat;
  };

  struct SessionEnded {
    int worker = 0;
    uint64_t session = 0;
    Status status;
  };

  using Event = std::variant<QueuedRequest,
                             Remove,
                             ReturnCredit,
                             Described,
                             FrameReport,
                             HeartbeatReport,
                             SessionEnded>;

  // One turn of the dispatch thread: what came, what is due, then stage 4.
  void Turn(std::vector<Event> events);

 private:
  StatusOr<std::unique_ptr<LiveRequest>> MakeLive(const Accepted& accepted);
  Status CheckRoom();
  uint64_t Random();

  void PrepareLoop(int thread);
  void DispatchLoop();
  absl::Duration TimeToNextEvent() const;
  void Post(Event event);
  void PostReport(Event event);
  void Apply(Event& event);
  void Dispatch();
  bool FitFront(FairQueue<QueuedRequest>& queue, int32_t context_tokens_max);
  void Submit(QueuedRequest request, int worker);
  void EndOverdueInQueue();
  void Act(const std::vector<Fleet::Action>& actions);
  void Publish();

  const RequestPathOptions options_;
  const std::vector<ServedModel>& models_;
  const Clock& clock_;
  MetricsPage<RouterMetrics>& metrics_;
  UsageMeter& usage_meter_;
  RequestPathPorts& ports_;

  std::atomic<bool> draining_{false};
  std::atomic<uint64_t> random_count_{0};
  std::atomic<int32_t> num_preparing_{0};
  std::atomic<int32_t> num_waiting_{0};  // In the fair queues, as of the last turn.
  std::vector<std::unique_ptr<BoundedQueue<Accepted>>> prepare_queues_;
  BoundedQueue<Event> inbox_;
  std::vector<std::thread> threads_;

  mutable absl::Mutex mutex_;
  int32_t num_live_ ABSL_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<const FleetSnapshot> snapshot_ ABSL_GUARDED_BY(mutex_);

  ThreadChecker dispatch_thread_;
  Fleet fleet_;
  std::map<const ServedModel*, FairQueue<QueuedRequest>> queues_;
  int64_t next_queue_deadline_ns_ = INT64_MAX;
};

}  // namespace facet::router
