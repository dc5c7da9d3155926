// A relay shard: one thread that owns its share of the live requests, from the end of Prepare() to
// their last message.
//
// Everything that happens to a request comes here as a posted event: registered, dispatched, a step
// frame, refused, cancelled by its client, ended by the dispatch thread, its worker lost. A request
// goes queued → running → ended, and back to queued when a worker refuses or loses it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/thread_checker.h"
#include "facet/worker/v1/worker.pb.h"
#include "metrics_registry.h"
#include "router/accounting/open_accounts.h"
#include "router/accounting/usage_meter.h"
#include "router/answer_stream.h"
#include "router/answer_text.h"
#include "router/queued_request.h"
#include "router/token_log.h"

namespace facet::router {

struct LiveRequest {
  enum class State { kQueued, kRunning };

  LiveRequest(QueuedRequest queued, AnswerText answer_text, std::shared_ptr<AnswerStream> answer)
      : request(std::move(queued)),
        stream(std::move(answer)),
        log(request.submit.new_tokens_max()),
        text(std::move(answer_text)) {}

  const std::string& id() const { return request.submit.request_id(); }

  QueuedRequest request;
  std::string client_request_id;
  std::shared_ptr<AnswerStream> stream;
  int64_t arrival_ns = 0;
  int64_t deadline_ns = 0;

  State state = State::kQueued;
  int worker = -1;  // With session and names: of the present or last attempt.
  uint64_t session = 0;
  std::string worker_name;
  std::string numerics_id;
  bool accepted_sent = false;

  TokenLog log;
  AnswerText text;
  int64_t dispatched_ns = 0;  // First time; 0: not yet.
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
  int64_t prefill_device_ns = 0;
  int64_t decode_device_ns = 0;
  int64_t cost_nano_usd = 0;
};

// A worker was chosen; posted before the submit is sent, so frames find the request running.
struct RequestDispatched {
  std::string request_id;
  uint32_t epoch = 0;
  int worker = 0;
  uint64_t session = 0;
  std::string worker_name;
  std::string numerics_id;
  uint64_t worker_epoch = 0;
  std::string device_class;
};

// All of a step frame that concerns this shard.
struct FrameArrived {
  int worker = 0;
  uint64_t session = 0;
  worker::v1::StepFrame frame;
};

// Records that a worker offers, of this shard's requests.
struct SettledArrived {
  int worker = 0;
  uint64_t session = 0;
  std::vector<v1::UsageRecord> records;
};

struct SubmitWasRefused {
  int worker = 0;
  uint64_t session = 0;
  worker::v1::SubmitRefused refused;
};

struct ClientGone {
  std::string request_id;
};

struct EndRequest {
  std::string request_id;
  Status status;
};

struct WorkerLost {
  int worker = 0;
  uint64_t session = 0;
  std::string reason;  // One sentence that names the worker.
};

// Ends all requests and those that come later.
struct EndAll {
  Status status;
};

using RelayEvent = std::variant<std::unique_ptr<LiveRequest>,
                                RequestDispatched,
                                FrameArrived,
                                SettledArrived,
                                SubmitWasRefused,
                                ClientGone,
                                EndRequest,
                                WorkerLost,
                                EndAll>;

// What a shard asks of the rest of the router. Called on the shard's thread; all return at once.
class RelayPorts {
 public:
  virtual ~RelayPorts() = default;

  virtual void Requeue(QueuedRequest request) = 0;
  virtual void RemoveFromQueue(const ServedModel& model, const std::string& request_id) = 0;
  virtual void ReturnCredit(int worker, uint64_t session, int64_t prefill_tokens) = 0;
  virtual void SendToWorker(int worker, uint64_t session, worker::v1::RouterMessage message) = 0;
  virtual void FrameDone(int worker, uint64_t session) = 0;
  // Complete records, for the ledger. worker -1: settled by the router itself.
  virtual void Settle(std::vector<v1::UsageRecord> records, int worker, uint64_t session) = 0;
  virtual void RequestEnded() = 0;
};

struct RelayOptions {
  uint32_t attempts_max = 1;  // Of one request on workers; a lost worker ends the last one.
  int64_t lost_retry_after_ms = 100;
};

class RelayShard {
 public:
  // Everything lent must outlive the shard.
  RelayShard(RelayOptions options,
             const Clock& clock,
             MetricsPage<RouterMetrics>& metrics,
             UsageMeter& usage_meter,
             RelayPorts& ports);

  // From any thread.
  void Post(RelayEvent event);

  // Handles events until Stop; the body of the shard's thread.
  void Run();

  void Stop() { inbox_.Close(); }

  // One turn: handles the events, then what is due. Run calls it; tests do so themselves.
  void Turn(std::vector<RelayEvent> events);

  size_t num_live() const { return live_.size(); }

 private:
  void OnRegister(std::unique_ptr<LiveRequest> request);
  void OnDispatched(const RequestDispatched& dispatched);
  void OnStepFrame(const FrameArrived& arrived);
  void OnSettled(SettledArrived& arrived);
  void OnRefused(const SubmitWasRefused& refused);
  void OnClientGone(const std::string& request_id);
  void OnWorkerLost(const WorkerLost& lost);
  void OnEndAll(const EndAll& end);
  void EndOverdue();
  absl::Duration TimeToNextDeadline() const;

  LiveRequest* Find(const std::string& request_id);
  void TakeLate(const worker::v1::TokenDelta& delta);
  void OpenAccount(const RequestDispatched& dispatched);
  bool Commit(LiveRequest& request, const worker::v1::TokenDelta& delta);
  bool Detokenize(LiveRequest& request,
                  const worker::v1::TokenDelta& delta,
                  std::vector<AnswerEvent>& events);
  void Account(LiveRequest& request, const worker::v1::TokenDelta& delta);
  void Deliver(LiveRequest& request, std::vector<AnswerEvent> events);
  void SendAccepted(LiveRequest& request);
  void QueueAgain(LiveRequest& request);
  void CancelOnWorker(const LiveRequest& request, worker::v1::CancelReason reason);
  void FinishWell(LiveRequest& request, v1::FinishReason reason);
  void FinishByWorker(LiveRequest& request, worker::v1::Finish finish);
  void End(LiveRequest& request, const Status& status, v1::FinishReason reason);
  v1::Usage UsageOf(const LiveRequest& request) const;

  const RelayOptions options_;
  const Clock& clock_;
  MetricsPage<RouterMetrics>& metrics_;
  UsageMeter& usage_meter_;
  RelayPorts& ports_;
  BoundedQueue<RelayEvent> inbox_;

  ThreadChecker thread_;
  std::unordered_map<std::string, std::unique_ptr<LiveRequest>> live_;
  OpenAccounts accounts_;
  std::optional<Status> closed_;          // Set by EndAll.
  int64_t next_deadline_ns_ = INT64_MAX;  // Not after the earliest deadline of live_.
};

}  // namespace facet::router
