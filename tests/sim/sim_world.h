// A group of processes, their hosts and links, a router, and what is done to them; and what must be
// true of it all. Hosts 0 to num_ranks - 1 are the ranks' own, spares come next, the router is
// last.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/sim_network.h"
#include "tests/sim/sim_process.h"

namespace facet::sim {

class World {
 public:
  explicit World(uint64_t seed);

  // What went wrong, with the seed; or nothing.
  std::string Run();

  struct Totals {
    int64_t num_groups = 0;
    int64_t num_faults = 0;    // That were injected.
    int64_t num_drained = 0;   // Groups that made a last step.
    int64_t num_assigned = 0;  // Spares that became a rank.
    int64_t num_refused = 0;   // Processes that found their rank taken for good.
    int64_t frames_delivered = 0;
    int64_t frames_dropped = 0;  // Of an older epoch.
  };

  Totals& totals() { return totals_; }

  // For processes.
  EventQueue& events() { return events_; }

  Random& random() { return random_; }

  int64_t now_ns() const { return events_.now_ns(); }

  int32_t num_ranks() const { return num_ranks_; }

  uint64_t all_ranks() const { return (uint64_t{1} << static_cast<uint32_t>(num_ranks_)) - 1; }

  int64_t FirstEpochMin() const;
  worker::GroupHub::Options hub_options() const;
  worker::GroupMember::Options member_options(int32_t rank, int64_t epoch_min) const;

  int64_t NextHub() { return num_hubs_++; }

  std::shared_ptr<Connection> NewConnection(Process& client);

  std::shared_ptr<Connection> connection(int64_t number) { return connections_.at(number); }

  void SendSyn(const std::shared_ptr<Connection>& connection);
  void SendToHub(const std::shared_ptr<Connection>& connection,
                 const worker::ControlMessage& message);
  void SendToMember(const std::shared_ptr<Connection>& connection,
                    const worker::ControlMessage& message);
  void CloseByClient(const std::shared_ptr<Connection>& connection, const std::string& reason);
  void CloseByServer(const std::shared_ptr<Connection>& connection, const std::string& reason);
  void CloseAllOf(Process& process);
  void SendData(Process& from, int32_t to_rank, std::function<void(Process&)> arrive);
  void SendFrame(Process& from, const Frame& frame);

  // What processes saw, to be checked. OnStarted returns the group's true number.
  int64_t OnStarted(Process& process, int64_t hub, int64_t epoch);
  void OnHeader(int64_t group, int64_t epoch, const worker::StepHeader& header);
  void OnFault(const worker::GroupFault& fault);
  void Fail(const std::string& what);

 private:
  struct Group {
    int64_t epoch = 0;
    std::vector<Process*> members;  // By rank.
    std::map<int64_t, worker::StepHeader> headers;
    std::map<int64_t, int64_t> begun_ns;
    std::map<int64_t, int32_t> num_frames;  // Delivered, by step.
  };

  void PlanFaults();
  void DoFault();
  void KillOne(int32_t host);
  void StopOne(int32_t host, int64_t duration_ns);
  void CutOne(int32_t a, int32_t b, bool both, int64_t duration_ns);
  void SetCut(int32_t from, int32_t to, bool cut);
  void Restart(int32_t host);
  void EndFaults();
  void BringWork();
  void DrainAll();
  // All healthy ranks of the victims' group are to be out of it in a second, if the fault lasts.
  void ExpectNotice(Process& victim, bool only_its_link);
  // Whether the link to host 0 is, and has been since.
  bool LinkWhole(int32_t host, int64_t since_ns);
  bool Undisturbed(Process& process, int64_t since_ns) const;
  void Route(const Frame& frame);

  const uint64_t seed_;
  Random random_;
  EventQueue events_;
  Network network_;
  int32_t num_ranks_ = 0;
  int32_t num_spares_ = 0;
  std::vector<std::unique_ptr<Process>> processes_;  // Dead ones too.
  std::vector<Process*> at_host_;
  std::map<int64_t, std::shared_ptr<Connection>> connections_;
  int64_t num_connections_ = 0;
  int64_t num_hubs_ = 0;
  std::map<std::pair<int32_t, int32_t>, int64_t> link_changed_ns_;

  std::map<int64_t, int64_t> group_of_hub_;
  std::map<int64_t, int64_t> group_of_epoch_;
  std::vector<Group> groups_;
  int64_t quiet_ns_ = 0;  // After the last fault; 0: not yet.
  bool done_ = false;
  std::string failure_;
  Totals totals_;

  // The router.
  int64_t highest_epoch_ = 0;
  int64_t delivered_group_ = -1;
};

}  // namespace facet::sim
