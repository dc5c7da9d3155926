// What the router knows of its workers: connection, identity, health, load and credits.
//
// A state machine without threads or I/O: events and the time go in, actions come out, and the
// dispatch thread carries them out. Each worker goes
//
//   connecting → (described, digests match) → session open → ready ⇄ draining, hung
//        ↑            ↓ mismatch                  ↓ stream broken, no heartbeat, hung
//        └─ backoff ──┴───────────────────────────┘
//
// The ranks of an expert-parallel group stand or fall together: none gets a request unless all are
// ready in one epoch and none drains, and a rank that comes with a newer epoch ends the sessions
// of the older one, so that nothing that a rank says late reaches a client.
//
// Everybody else reads an immutable FleetSnapshot.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "facet/v1/inference.pb.h"
#include "facet/worker/v1/worker.pb.h"
#include "router/routing/route_policy.h"

namespace facet::router {

// A configured worker and what it must be.
struct WorkerConfig {
  std::string pool;
  int index = 0;
  std::string grpc_address;
  std::string model;
  std::string config_digest;     // Of the router's own files; empty: not compared.
  std::string tokenizer_digest;  // Likewise.

  std::string name() const { return StrCat(pool, "/", index); }
};

struct WorkerView {
  RouteCandidate candidate;
  std::string numerics_id;
  v1::WorkerStatus status;
  int64_t last_heard_ns = 0;  // 0 while no session is open.
};

// The fleet at one moment; index i is worker i of the config.
struct FleetSnapshot {
  std::vector<WorkerView> workers;

  bool AnyReady(const std::string& model) const;

  // The least of the model's ready workers; 0 if none is ready.
  int32_t ContextTokensMax(const std::string& model) const;
};

struct FleetOptions {
  int64_t silence_ms_max = 1000;  // Without a heartbeat for longer: dead.
  int64_t step_ms_min = 1000;     // A step is hung after max(this, step_factor * predicted).
  int64_t step_factor = 4;
  int64_t lease_period_ms = 1000;  // Between renewals.
  int64_t lease_ms = 3000;         // What each renewal grants.
  int64_t connect_ms_max = 5000;   // From opening a session to its first heartbeat.
  int64_t backoff_ms_min = 100;
  int64_t backoff_ms_max = 2000;
};

class Fleet {
 public:
  struct Action {
    enum class Kind {
      kDescribe,     // Call Describe.
      kOpenSession,  // Open the stream `session`.
      kRenewLease,
      kCloseSession,  // Its requests are lost; `reason` says why, in one sentence.
    };
    Kind kind = Kind::kDescribe;
    int worker = 0;
    uint64_t session = 0;
    std::string reason = {};
    std::string cause = {};  // "stream", "heartbeat" or "hung", for the metric.
  };

  Fleet(std::vector<WorkerConfig> workers, FleetOptions options);

  // What is due at now_ns; to be called again at NextTickNs() at the latest.
  std::vector<Action> OnTick(int64_t now_ns);
  int64_t NextTickNs() const;

  std::vector<Action> OnDescribed(int worker,
                                  const StatusOr<worker::v1::DescribeResponse>& described,
                                  int64_t now_ns);

  // A step frame's report. Reports of a session that is not the open one are dropped.
  void OnReport(int worker,
                uint64_t session,
                const worker::v1::Credits& credits,
                const worker::v1::Load& load,
                uint64_t step,
                int64_t now_ns);

  std::vector<Action> OnHeartbeat(int worker,
                                  uint64_t session,
                                  const worker::v1::Heartbeat& heartbeat,
                                  int64_t now_ns);

  std::vector<Action> OnSessionEnded(int worker,
                                     uint64_t session,
                                     const Status& status,
                                     int64_t now_ns);

  // Books a submit against the worker's credits.
  void OnSubmitted(int worker, int64_t prompt_tokens);

  // A submit that the worker refused did not start: its credit is still there.
  void OnRefused(int worker, uint64_t session, int64_t prompt_tokens);

  uint64_t session(int worker) const { return workers_[worker].session; }

  const WorkerConfig& config(int worker) const { return workers_[worker].config; }

  const worker::v1::DescribeResponse& described(int worker) const {
    return workers_[worker].described;
  }

  const std::string& numerics_id(int worker) const { return described(worker).numerics_id(); }

  int64_t lease_ms() const { return options_.lease_ms; }

  size_t size() const { return workers_.size(); }

  std::vector<RouteCandidate> Candidates(const std::string& model) const;

  std::shared_ptr<const FleetSnapshot> Snapshot() const;

 private:
  // Totals at one time, for rates over the last ten seconds.
  struct Sample {
    int64_t time_ns = 0;
    worker::v1::Load load;
  };

  struct Worker {
    WorkerConfig config;
    v1::WorkerState state = v1::WORKER_STATE_CONNECTING;
    std::string reason = "not reached yet";
    worker::v1::DescribeResponse described;
    bool was_described = false;
    bool describing = false;
    uint64_t session = 0;  // 0: none is open.
    uint64_t sessions_opened = 0;
    int64_t last_heard_ns = 0;
    int64_t next_lease_ns = 0;
    int64_t next_describe_ns = 0;
    int64_t backoff_ms = 0;
    uint64_t step = 0;
    worker::v1::Credits credits;
    worker::v1::Load load;
    worker::v1::ExpertLoad experts;
    uint64_t sequences_sent = 0;  // Totals of this session, as credits are.
    uint64_t prefill_tokens_sent = 0;
    uint64_t sequences_reported = 0;  // Of these, what load counts or has ended.
    uint64_t prefill_tokens_reported = 0;
    std::deque<Sample> samples;
  };

  // Why a worker that is ready itself gets no requests, and how its group stands.
  struct GroupHold {
    v1::WorkerState state = v1::WORKER_STATE_READY;  // Not held.
    std::string reason = {};
  };

  bool IsOpen(const Worker& worker, uint64_t session) const;
  std::string Mismatch(int index) const;
  // Whether both have a session open under an epoch of one group.
  static bool SameGroup(const Worker& a, const Worker& b);
  // Ends the sessions of ranks that have not seen the epoch of this one.
  std::vector<Action> EndOlderEpochs(int index, int64_t now_ns);
  GroupHold HoldOf(const Worker& worker) const;
  void OnNotDescribed(Worker& worker, const Status& status);
  void Retry(Worker& worker, int64_t now_ns);
  Action Lose(
      int index, v1::WorkerState state, const std::string& reason, std::string cause, int64_t now);
  void TakeReport(Worker& worker,
                  const worker::v1::Credits& credits,
                  const worker::v1::Load& load,
                  uint64_t step,
                  int64_t now_ns);
  RouteCandidate CandidateOf(const Worker& worker) const;
  v1::WorkerStatus StatusOf(const Worker& worker) const;

  FleetOptions options_;
  std::vector<Worker> workers_;
};

}  // namespace facet::router
