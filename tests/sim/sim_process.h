// One process of a simulated group: the real GroupMember and GroupHub on simulated connections, and
// a small model of the worker above them, which does steps when all agree, publishes a frame when a
// step is complete, and on a fault drops everything and forms anew.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/sim_network.h"
#include "worker/comm/group_hub.h"
#include "worker/comm/group_member.h"

namespace facet::sim {

class World;
class Process;

// From a process to the hub at host 0, from its Connect on.
struct Connection {
  int64_t number = 0;
  Process* client = nullptr;
  Process* server = nullptr;  // Whose hub has accepted it.
  int64_t hub = -1;           // The number of that hub; each life of a hub has its own.
  bool client_open = true;
  bool server_open = false;
};

// What a rank says to the router.
struct Frame {
  int64_t group = 0;  // True order of groups, which no process knows.
  int64_t epoch = 0;
  int64_t step = 0;
  int32_t rank = 0;
};

// Life: running ⇄ stopped; → dead. A restarted process is a new Process.
class Process : public worker::GroupMember::Wire, public worker::GroupHub::Wire {
 public:
  enum class State {
    kComing,   // At the rendezvous, as a rank or as a spare.
    kRunning,  // In a group.
    kDrained,  // In a group that has made its last step.
    kLeaving,  // Says goodbye, as long as that takes.
    kLoading,  // Between groups.
  };

  Process(World& world, int32_t host, int32_t rank);
  ~Process() override;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Runs now, or once this process runs again; not at all if it is dead.
  void Deliver(std::function<void()> run);

  void Stop();
  void Continue();
  void Kill();

  void AddWork(int64_t num_steps);
  void Drain();  // Wants no more steps of this group.

  // The hub that listens here, or null.
  worker::GroupHub* listening() { return listening_ ? hub_.get() : nullptr; }

  worker::GroupHub* hub() { return hub_.get(); }

  worker::GroupMember* member() { return member_.get(); }

  int64_t hub_number() const { return hub_number_; }

  int32_t host() const { return host_; }

  int32_t rank() const { return rank_; }

  bool alive() const { return alive_; }

  bool stopped() const { return stopped_; }

  // When it was last stopped, continued or started.
  int64_t disturbed_ns() const { return disturbed_ns_; }

  // The group that it takes itself to be in; -1: none.
  int64_t group() const { return state_ == State::kRunning ? group_ : -1; }

  std::string Describe() const;

 private:
  void Connect() override;
  void Send(const worker::ControlMessage& message) override;
  void Close() override;
  void Send(int64_t connection, const worker::ControlMessage& message) override;

  void FinishSending(int64_t /*connection*/) override {}  // Whoever hears the last word closes.

  void Close(int64_t connection) override;

  void Come();
  void ScheduleTick();
  void Tick();
  void CheckDeadlines();
  void Report(worker::FaultKind kind, int32_t rank);
  void Look();  // At what has become of the member.
  void LookWhileComing();
  void LookAtStep();
  void Start();
  bool WantsStep() const;
  void BeginStep();
  void OnData(int64_t group, int64_t epoch, int64_t step, int32_t from);
  void CompleteStep();
  void LeaveThen(std::function<void()> next);
  void FinishLeaving();
  void Later(int64_t low_ms, int64_t high_ms, std::function<void()> run);

  World& world_;
  const int32_t host_;
  int32_t rank_;
  bool alive_ = true;
  bool stopped_ = false;
  int64_t disturbed_ns_ = 0;
  std::vector<std::function<void()>> missed_;  // While stopped.

  State state_ = State::kLoading;
  int64_t epoch_min_ = 0;
  std::unique_ptr<worker::GroupHub> hub_;
  std::unique_ptr<worker::GroupMember> member_;
  std::shared_ptr<Connection> link_;
  bool listening_ = false;
  int64_t hub_number_ = -1;
  int64_t join_deadline_ns_ = 0;
  int64_t leave_deadline_ns_ = 0;
  std::function<void()> after_leaving_;

  // In a group.
  int64_t group_ = -1;
  int64_t step_ = 0;
  int64_t work_ = 0;  // Steps that this rank has something to bring to.
  bool leaving_ = false;
  bool agreeing_ = false;
  bool stepping_ = false;
  bool computed_ = false;
  int64_t step_deadline_ns_ = 0;
  std::map<int64_t, uint64_t> data_;  // Step → ranks whose data has come, as bits.
};

}  // namespace facet::sim
