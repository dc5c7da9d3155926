// facet.worker.v1 on the wire: checks fields, posts commands to the engine, writes its frames.
//
// gRPC threads run the reactors; none of them waits. Each Session has a bounded outbox and one
// write in flight. A thread of its own sends every session a heartbeat each 100 ms, so that a hung
// step shows, and ends sessions whose lease has run out. Life of the service: not ready (Describe
// answers UNAVAILABLE and why) ⇄ serving → draining → gone.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/status.h"
#include "facet/worker/v1/worker.grpc.pb.h"
#include "worker/engine/engine.h"
#include "worker/service/usage_journal.h"

namespace facet::worker {

class WorkerService final : public v1::WorkerService::CallbackService, public EngineSink {
 public:
  WorkerService(const Clock& clock, UsageJournalOptions journal);
  ~WorkerService() override;

  // Begins to serve, or does so again after SetNotReady; the engine must outlive the service.
  // on_drain is called when a peer asks for Drain, on a gRPC thread.
  void Serve(Engine& engine,
             const v1::DescribeResponse& description,
             std::function<void()> on_drain);

  // Ends every session and refuses new ones, for this reason (with an ErrorInfo), until Serve.
  void SetNotReady(Status why);

  // Ends every session after what it has been given; nothing is published any more.
  void Shutdown();

  // Settled accounts that wait for a router.
  UsageJournal& journal() { return journal_; }

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const v1::DescribeRequest* request,
                                     v1::DescribeResponse* response) override;
  grpc::ServerBidiReactor<v1::RouterMessage, v1::WorkerMessage>* Session(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

  // EngineSink, on the engine thread.
  void OnStepFrame(StepFrame frame) override;
  void OnRefusal(Refusal refusal) override;
  void OnSettled(SettledAccount account) override;
  void OnLost(const Status& cause) override;

 private:
  class Reactor;

  // A submit as the engine takes it, or what is wrong with it.
  StatusOr<SequenceRequest> CheckSubmit(const v1::Submit& submit) const;
  void Enqueue(uint64_t session_id, v1::WorkerMessage message);
  void Remove(uint64_t session_id);
  void HeartbeatMain();

  const Clock& clock_;
  mutable absl::Mutex mutex_;
  Engine* engine_ ABSL_GUARDED_BY(mutex_) = nullptr;
  Status not_ready_ ABSL_GUARDED_BY(mutex_);  // OK: it serves.
  v1::DescribeResponse description_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_drain_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Reactor*> sessions_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_session_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  UsageJournal journal_;
  std::thread heartbeat_thread_;
};

}  // namespace facet::worker
