// The engine: one thread that turns requests into steps of the model and steps into tokens.
//
// Threads post commands into a bounded inbox; the engine thread owns everything else. It waits on
// the inbox only when there is nothing to compute. Two steps overlap: while one runs on the device,
// the next is planned, with the tokens that the first will draw standing for themselves ("this
// slot's last sample"). Tokens drawn past a stop are thrown away.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/thread_checker.h"
#include "worker/engine/charge.h"
#include "worker/engine/engine_stats.h"
#include "worker/engine/expert_load.h"
#include "worker/engine/price.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/step_frame.h"
#include "worker/engine/step_model.h"
#include "worker/executor/executor.h"

namespace facet::worker {

struct EngineOptions {
  SchedulerOptions scheduler;
  PriceSchedule prices;
  StepModel step_model = {};  // By which sequences share a step.
  size_t inbox_max = 4096;
};

class Engine {
 public:
  // executor, sink and clock must outlive the engine. Start() begins the thread.
  Engine(const EngineOptions& options, Executor& executor, EngineSink& sink, const Clock& clock);
  ~Engine();

  void Start();

  // From any thread. RESOURCE_EXHAUSTED at once if the inbox is full; later answers go to the sink.
  Status AddRequest(SequenceRequest request);
  void CancelRequest(uint64_t session_id,
                     std::string request_id,
                     uint32_t epoch,
                     FinishReason reason,
                     bool wasted);
  void OpenSession(uint64_t session_id);
  // Cancels everything that the session has.
  void CloseSession(uint64_t session_id);

  // No new requests; what runs is finished. on_drained is called on the engine thread.
  void Drain(std::function<void()> on_drained);

  // What computes has failed: sequences and sessions are lost, which the sink is told, and new
  // requests are refused until Resume. A step that fails has the same effect by itself. For a rank
  // whose group has ended; Resume when it is formed anew. on_resumed is called on the engine
  // thread, after the sink was told of every loss before.
  void Suspend(Status cause);
  void Resume(std::function<void()> on_resumed);

  // Ends the thread after the steps in flight; sequences that run are cancelled and settled.
  void Stop();

  // The longest prompt plus output that is accepted.
  int32_t context_tokens_max() const { return scheduler_.context_tokens_max(); }

  // The device is held since then, and was loading until Start(), which is yet to come.
  void SetHeldSince(int64_t held_since_ns) { stats_.SetHeldSince(held_since_ns); }

  // What the device costs from now on, or from the instants that the schedule names; from any
  // thread. What was charged before stays.
  void SetPrices(PriceSchedule prices) { stats_.SetPrices(std::move(prices)); }

  // By what sequences share steps from now on: before Start or in a call of on_resumed.
  void SetStepModel(const StepModel& model) { step_model_ = model; }

  // As of the last step's end; from any thread.
  EngineStats Stats() const { return stats_.Snapshot(); }

  // One turn of the loop: take commands, plan and submit a step, wait for the step before it and
  // publish its tokens. Returns false if there was nothing to do. For the thread and for tests that
  // drive the engine themselves.
  bool Step();

 private:
  struct CancelCommand {
    uint64_t session_id;
    std::string request_id;
    uint32_t epoch;
    FinishReason reason;
    bool wasted;
  };

  struct OpenCommand {
    uint64_t session_id;
  };

  struct CloseCommand {
    uint64_t session_id;
  };

  struct DrainCommand {
    std::function<void()> on_drained;
  };

  struct SuspendCommand {
    Status cause;
  };

  struct ResumeCommand {
    std::function<void()> on_resumed;
  };

  using Command = std::variant<SequenceRequest,
                               CancelCommand,
                               OpenCommand,
                               CloseCommand,
                               DrainCommand,
                               SuspendCommand,
                               ResumeCommand>;

  struct InFlight {
    Ticket ticket = 0;
    StepPlan plan;
    std::vector<uint64_t> weights;  // Of its chunks, by which they pay for it.
    double predicted_ns = 0;        // By the step model; 0 if it does not predict.
    PhaseWork work;
    uint64_t step = 0;
  };

  void ThreadMain();
  void TakeCommands(std::vector<Command> commands);
  void OnCommand(SequenceRequest& request);
  void OnCommand(CancelCommand& command);
  void OnCommand(OpenCommand& command);
  void OnCommand(CloseCommand& command);
  void OnCommand(DrainCommand& command);
  void OnCommand(SuspendCommand& command);
  void OnCommand(ResumeCommand& command);
  void LoseAll(const Status& cause);
  void ResumeIfIdle();
  void ExpireDeadlines();

  void SubmitStep(StepPlan plan);
  void FinishStep();
  // Appends the step's tokens to their sequences and decides which of them end.
  std::map<uint64_t, StepFrame> Commit(const InFlight& step, StepResult& result);
  TokenDelta CommitRow(const PlannedChunk& chunk, RowResult& row, const Charge& charge);
  void Publish(std::map<uint64_t, StepFrame> frames, uint64_t step, int64_t step_ns);
  // Ends a sequence outside a step and tells its session.
  void EndNow(Sequence& seq, FinishReason reason);
  void ForgetFinished();
  const Credits& Grant(Credits& session);
  Load CurrentLoad() const;
  // Books a step's time and divides it among its chunks, their sequences' accounts and tenants.
  std::vector<Charge> Bill(const InFlight& step, const StepResult& result);
  void Bill(const PlannedChunk& chunk, const Charge& charge, EngineStats& stats);
  // What the sequence was charged so far came to nothing.
  void CountWaste(const Sequence& seq, const char* reason);
  // Tells the sink of the accounts that were closed, after the frames with their last charges.
  void TellSettled();

  const EngineOptions options_;
  Executor& executor_;
  EngineSink& sink_;
  const Clock& clock_;
  ThreadChecker engine_thread_;
  BoundedQueue<Command> inbox_;
  Scheduler scheduler_;
  StepModel step_model_;
  std::deque<InFlight> in_flight_;
  std::map<uint64_t, Credits> sessions_;  // What each was granted and what it has used.
  std::map<const Sequence*, SettledAccount> accounts_;
  std::vector<SettledAccount> settled_;  // Closed, and the sink not told yet.
  uint64_t num_steps_ = 0;
  bool draining_ = false;
  bool suspended_ = false;
  std::function<void()> on_resumed_;  // Set while a Resume waits for the steps in flight.
  std::function<void()> on_drained_;
  StatsBoard stats_;
  ExpertLoadGate expert_load_;
  std::thread thread_;
};

}  // namespace facet::worker
