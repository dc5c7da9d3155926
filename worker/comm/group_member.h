// A rank's side of the control connection: comes to the rendezvous, comes again until the group
// starts, says when the rank is ready for a step, and knows what ended the group. A rank reports
// what it saw, waits at most kVerdictNs for the hub's word, and takes its own for it if the hub is
// gone. A spare comes the same way and waits for the rank that it is to be.
//
// Life: coming → started → ended; or coming → refused; or coming → assigned. Whatever of this has
// come true stays true.
//
// No threads, sockets or clock, as GroupHub: GroupControl drives it, and so does tests/sim. Times
// are those of the last Tick.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/comm/awake_clock.h"
#include "worker/comm/control_message.h"
#include "worker/comm/group_fault.h"
#include "worker/comm/step_header.h"

namespace facet::worker {

class GroupMember {
 public:
  struct Options {
    int32_t rank = 0;  // kSpareRank: a spare.
    int32_t num_ranks = 0;
    int64_t epoch_min = 0;
    std::string rendezvous_address;  // For messages.
    std::string group_key;
    std::string addresses;  // What the other ranks are to learn of this one.
    int64_t heartbeat_ns = 0;
    int64_t silence_ns = 0;  // After which the hub counts as lost.
  };

  // The one connection to the hub. Calls nothing back before it returns.
  class Wire {
   public:
    virtual ~Wire() = default;
    // OnConnected or OnClosed follows, unless Close comes first.
    virtual void Connect() = 0;
    virtual void Send(const ControlMessage& message) = 0;
    // OnClosed is not called.
    virtual void Close() = 0;
  };

  GroupMember(Options options, Wire& wire);

  void OnConnected();
  void OnMessage(ControlMessage&& message);
  void OnClosed(const std::string& reason);

  // Due at once and then every few tens of milliseconds.
  void Tick(int64_t now_ns);

  // Ends the group, or the wait for it. rank -1: by whoever is missing, which the hub knows.
  void Report(GroupFault fault);

  // Ready for the step after the last, kConnectedStep being the first; the caller has awaited the
  // last one.
  void Ready(const StepWish& wish);

  // Says goodbye; from here on a closed connection is no fault.
  void Leave();

  bool started() const { return started_; }

  // Of the group; before it has started, the lowest that will do.
  int64_t epoch() const { return started_ ? epoch_ : options_.epoch_min; }

  // What each rank brought, by rank, once it has started.
  const std::vector<std::string>& addresses() const { return addresses_; }

  const std::optional<GroupFault>& fault() const { return fault_; }

  // Why there will be no group. FAILED_PRECONDITION or PERMISSION_DENIED.
  const Status& refused() const { return refused_; }

  // The rank that a spare is to be.
  const std::optional<int32_t>& assigned() const { return assigned_; }

  // The last step that has begun.
  const std::optional<StepHeader>& header() const { return header_; }

  // Whether another rank is ready for the step that this one has yet to join.
  bool called() const { return !fault_ && called_step_ >= next_step_; }

  bool connected() const { return link_ != Link::kNone; }

 private:
  static constexpr int64_t kRetryNs = 50'000'000;
  static constexpr int64_t kVerdictNs = 250'000'000;
  static constexpr int64_t kTakenSilences = 2;  // After so long the holder of our rank is alive.

  enum class Link { kNone, kConnecting, kOpen };

  void OnChallenge(const std::string& hub_nonce);
  void OnRefused(const ControlMessage& message);
  void OnStart(ControlMessage&& message);
  void OnAssign(const ControlMessage& message);
  void OnBegins(const ControlMessage& message);
  void OnHubLeft();
  bool HubKnowsKey(const std::string& proof);
  void Drop();
  void ComeAgain();
  void Refuse(Status status);
  void Decide(GroupFault fault);
  bool settled() const;

  const Options options_;
  Wire& wire_;
  AwakeClock clock_;
  int64_t now_ns_ = 0;
  int64_t awake_ns_ = 0;
  Link link_ = Link::kNone;
  std::string hub_nonce_;  // Empty until we said Hello on this connection.
  ControlMessage hello_;
  int64_t heartbeat_ns_ = 0;  // When the last one was sent, in awake_ns_.
  int64_t heard_ns_ = 0;      // When the hub was heard last, in awake_ns_.
  int64_t retry_ns_ = 0;      // When to connect again.
  int64_t taken_ns_ = 0;      // Since when another has held our rank; 0: nobody.
  int64_t verdict_ns_ = 0;    // When to stop waiting for the hub's word.

  bool started_ = false;
  bool leaving_ = false;
  bool hub_left_ = false;
  int64_t epoch_ = 0;
  std::vector<std::string> addresses_;
  Status refused_;
  std::optional<int32_t> assigned_;
  std::optional<GroupFault> reported_;  // What the hub's word is awaited on.
  std::optional<GroupFault> fault_;
  int64_t next_step_ = kConnectedStep;  // That this rank will be ready for.
  int64_t called_step_ = kConnectedStep - 1;
  std::optional<StepHeader> header_;
};

}  // namespace facet::worker
