// Rank 0's side of the control connections: lets ranks in that know the group key, starts the group
// once all are there, gives ranks that stay away to spares, tells all ranks when all are ready for
// a step, and decides what ended the group, so that all ranks name the same cause.
//
// Epochs. A rank comes with the lowest epoch that will do, one above the last it has seen, and the
// group takes the highest of all: it is new to everybody in it.
//
// Life: forming → started → ended. A group that has ended lets nobody in; rank 0 comes with a new
// hub. Rank 0 itself is never given to a spare, since the rendezvous is at its address.
//
// No threads, sockets or clock: connections are numbers, what happens to them is told by calls, and
// what is to be done goes to a Wire. RendezvousServer drives it, and so does tests/sim.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/comm/awake_clock.h"
#include "worker/comm/control_message.h"
#include "worker/comm/group_fault.h"
#include "worker/comm/step_header.h"

namespace facet::worker {

class GroupHub {
 public:
  struct Options {
    int32_t num_ranks = 0;
    std::string group_key;
    int64_t heartbeat_ns = 0;
    int64_t silence_ns = 0;      // A rank not heard for so long is lost.
    int64_t spare_after_ns = 0;  // How long the group forms before a spare gets an absent rank.
    int64_t assign_ns = 0;       // How long that spare has to come as this rank.
  };

  // Calls nothing back before it returns. What it is told of a closed connection is dropped.
  class Wire {
   public:
    virtual ~Wire() = default;
    virtual void Send(int64_t connection, const ControlMessage& message) = 0;
    // No more will be sent; the other side is to close.
    virtual void FinishSending(int64_t connection) = 0;
    // OnClosed is not called for it.
    virtual void Close(int64_t connection) = 0;
  };

  GroupHub(Options options, Wire& wire);

  // Someone connected. No number is ever used twice. peer is for the log.
  void OnConnected(int64_t connection, std::string peer);
  void OnMessage(int64_t connection, ControlMessage&& message);
  void OnClosed(int64_t connection, const std::string& reason);

  // Due every few tens of milliseconds: heartbeats, silence, spares.
  void Tick(int64_t now_ns);

  // Tells all ranks that rank 0 leaves. They close their connections.
  void Leave();

  // Of ranks.
  bool has_connections() const;

 private:
  static constexpr size_t kStrangersMax = size_t{2} * kGroupRanksMax;
  static constexpr size_t kSparesMax = kGroupRanksMax;
  static constexpr int64_t kHelloNsMax = 2'000'000'000;  // For a stranger to say who it is.
  static constexpr int64_t kQuietHeartbeats = 3;  // A rank heard since has not been replaced.

  enum class Role {
    kStranger,  // Has shown nothing yet.
    kAnswered,  // Has had its answer and is to close.
    kSpare,
    kRank,
  };

  struct Peer {
    Role role = Role::kStranger;
    std::string address;
    std::string nonce;  // Ours, for this connection.
    ControlMessage hello;
    int64_t since_ns = 0;
    int64_t heard_ns = 0;
  };

  struct Seat {
    int64_t connection = -1;
    bool left = false;
    std::optional<int64_t> assigned_ns;  // When a spare was told to come as this rank.
  };

  void OnHello(int64_t connection, ControlMessage&& hello);
  // Why this Hello has no place in the group; PERMISSION_DENIED: another key.
  Status Check(const std::string& nonce, const ControlMessage& hello) const;
  void TakeSeat(int64_t connection, int32_t rank);
  void Refuse(int64_t connection, RefusedWhy refusal, const std::string& why);
  void SayLastWords(int64_t connection, const ControlMessage& message);
  void StartGroup();
  void OnRankMessage(int32_t rank, const ControlMessage& message);
  void OnLeave(int32_t rank);
  void OnFault(int32_t rank, const ControlMessage& message);
  void OnStep(int32_t rank, const ControlMessage& message);
  void DropLateStrangers();
  void SendHeartbeats();
  void FindSilent();
  void AssignSpares();
  void Vacate(int32_t rank);
  void End(GroupFault fault);
  void Broadcast(const ControlMessage& message, int32_t except = -1);
  int32_t RankOf(int64_t connection) const;  // -1: none.
  int32_t FirstAbsent() const;               // -1: all are there.
  int32_t FirstLeft() const;
  size_t Count(Role role) const;

  const Options options_;
  Wire& wire_;
  AwakeClock clock_;
  int64_t awake_ns_ = 0;  // At the last Tick; what the times above count.
  int64_t heartbeat_ns_ = 0;
  std::map<int64_t, Peer> peers_;  // By connection.
  std::vector<Seat> seats_;
  int64_t epoch_ = 0;  // While forming, the highest that a rank came with.
  bool started_ = false;
  bool draining_ = false;  // The last step was everybody's last: it is time to leave.
  StepRound round_;
  std::optional<GroupFault> fault_;
};

}  // namespace facet::worker
