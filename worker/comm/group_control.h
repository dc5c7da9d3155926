// A rank's control connection: it forms the group, tells of failures and finds them by heartbeats.
// Data never travels here, so that a stuck transfer cannot hide its cause.
//
// Rank 0 serves the rendezvous at a configured address (group_hub.h); every rank, rank 0 too,
// connects to it, and both show that they know the group key. What ends the group is decided there:
// a rank reports what it saw, waits at most kVerdictNs for the hub's word, and takes its own for it
// if the hub is gone.
//
// Life: joined → ended (a fault) → destroyed. One thread of its own runs connections and timers.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "worker/comm/control_connection.h"
#include "worker/comm/group_fault.h"
#include "worker/comm/group_hub.h"

namespace facet::worker {

class GroupControl {
 public:
  struct Options {
    int32_t rank = 0;
    int32_t num_ranks = 0;
    int64_t epoch = 0;
    std::string rendezvous_address;  // host:port, where rank 0 listens.
    std::string group_key;
    int64_t heartbeat_ms = 100;
    int64_t silence_ms = 800;  // After which a rank counts as lost.
  };

  // Comes to the rendezvous with this rank's addresses and waits until all ranks are there.
  // on_fault is called once, on the control thread, when the group ends after that.
  //
  // DEADLINE_EXCEEDED names an absent rank; PERMISSION_DENIED: another key; FAILED_PRECONDITION:
  // another epoch or size of the group, or the rank is taken; UNAVAILABLE: rank 0 cannot listen.
  static StatusOr<std::unique_ptr<GroupControl>> Join(const Options& options,
                                                      std::string addresses,
                                                      absl::Duration timeout,
                                                      std::function<void()> on_fault);

  // Leaves the group: others are told, as far as they still listen, within kLeaveNs.
  ~GroupControl();

  // What each rank brought to Join, by rank.
  const std::vector<std::string>& addresses() const { return addresses_; }

  // The end of the group, or OK.
  Status status();

  // Reports a fault and returns what ended the group: this, or what came before it.
  Status End(FaultKind kind, int32_t rank, std::string reason);

  // As End, from any thread and without waiting; status() is an error from now on.
  void Report(FaultKind kind, int32_t rank, std::string reason);

  // From here to Unwatch the caller waits for this rank, and past the deadline the group ends.
  void Watch(int32_t rank, int64_t deadline_ns, const std::string& what);
  void Unwatch();

 private:
  static constexpr int64_t kTickMs = 20;
  static constexpr int64_t kTickNsMax = 80'000'000;  // What a tick may count for, however late.
  static constexpr int64_t kVerdictNs = 250'000'000;
  static constexpr int64_t kLeaveNs = 200'000'000;

  struct Watched {
    int32_t rank = 0;
    int64_t deadline_ns = 0;
    std::string what;
  };

  GroupControl(const Options& options, std::string addresses, std::function<void()> on_fault);

  Status Run(absl::Duration timeout);
  // The rest runs on the control thread.
  void Connect();
  void OnMessage(ControlMessage&& message);
  void OnChallenge(const std::string& hub_nonce);
  void OnRefused(const ControlMessage& message);
  void OnStart(ControlMessage&& message);
  void OnClosed(const std::string& reason);
  void OnReport(GroupFault fault);
  void Refuse(Status status);
  bool HasStarted();
  void Decide(GroupFault fault);
  void ScheduleTick();
  void Tick();
  void TickLink(int64_t now_ns, bool heartbeat_due);
  void Leave();
  void StopIfAlone();

  const Options options_;
  const std::string my_addresses_;
  const std::function<void()> on_fault_;
  std::vector<std::string> addresses_;  // Set before Join returns.

  // Control thread.
  boost::asio::io_context io_;
  boost::asio::steady_timer tick_;
  boost::asio::ip::tcp::endpoint hub_address_;
  std::unique_ptr<GroupHub> hub_;  // Rank 0.
  std::shared_ptr<boost::asio::ip::tcp::socket> connecting_;
  std::shared_ptr<ControlConnection> link_;
  std::string hub_nonce_;
  ControlMessage hello_;
  int64_t last_tick_ns_ = 0;
  int64_t heartbeat_ns_ = 0;  // When the last one was sent.
  int64_t awake_ns_ = 0;      // Time that ticks have seen pass; see Tick.
  int64_t heard_ns_ = 0;      // When the hub was heard last, in awake_ns_.
  int64_t retry_ns_ = 0;      // When to connect again; 0: connected or connecting.
  int64_t leave_ns_ = 0;      // When to stop waiting for the others; 0: not leaving.
  int64_t verdict_ns_ = 0;    // When to stop waiting for the hub's word; 0: nothing is reported.
  bool hub_left_ = false;

  std::atomic<bool> leaving_ = false;
  absl::Mutex mutex_;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  Status refused_ ABSL_GUARDED_BY(mutex_);  // Why the group was not formed.
  std::optional<GroupFault> reported_ ABSL_GUARDED_BY(mutex_);
  std::optional<GroupFault> fault_ ABSL_GUARDED_BY(mutex_);
  std::optional<Watched> watched_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace facet::worker
