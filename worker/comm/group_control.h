// A rank's control connection: it forms the group, agrees on steps, tells of failures and finds
// them by heartbeats. Data never travels here, so that a stuck transfer cannot hide its cause.
//
// Rank 0 serves the rendezvous at a configured address; every rank, rank 0 too, connects to it, and
// both show that they know the group key. What is said and decided there is in GroupHub (rank 0's
// side) and GroupMember (each rank's); this is their sockets, their timer and their thread.
//
// Life: joined → ended (a fault) → destroyed.
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
#include "base/clock.h"
#include "base/status.h"
#include "worker/comm/control_connection.h"
#include "worker/comm/group_fault.h"
#include "worker/comm/group_member.h"
#include "worker/comm/listener.h"
#include "worker/comm/rendezvous_server.h"
#include "worker/comm/step_header.h"

namespace facet::worker {

class GroupControl : private GroupMember::Wire {
 public:
  struct Options {
    int32_t rank = 0;  // Of a spare it says nothing.
    int32_t num_ranks = 0;
    int64_t epoch_min = 1;           // One above the last epoch that this process has seen.
    std::string rendezvous_address;  // host:port, where rank 0 listens.
    std::string group_key;
    int64_t heartbeat_ms = 100;
    int64_t silence_ms = 800;       // After which a rank counts as lost.
    int64_t spare_after_ms = 1500;  // How long a group forms before a spare gets an absent rank.
    int64_t assign_ms = 10'000;     // How long that spare has to come before another gets it.
  };

  // Comes to the rendezvous with this rank's addresses and waits until all ranks are there. The
  // group's epoch is the highest epoch_min. on_fault is called once, on the control thread, when
  // the group ends after that.
  //
  // A rank that finds an older group there, or its own rank held by a process that has fallen
  // silent, waits for that group to end. Where a spare may take a rank, timeouts are to be well
  // above spare_after_ms: the first rank whose time is over ends the wait for all.
  //
  // DEADLINE_EXCEEDED names an absent rank; PERMISSION_DENIED: another key; FAILED_PRECONDITION:
  // another size of the group, or the rank is held by a process that is alive; UNAVAILABLE: rank 0
  // cannot listen.
  static StatusOr<std::unique_ptr<GroupControl>> Join(const Options& options,
                                                      std::string addresses,
                                                      absl::Duration timeout,
                                                      std::function<void()> on_fault);

  // Waits at the rendezvous as a spare; returns the rank to join as, within assign_ms. A rank that
  // comes back in the meantime keeps its place: Join then returns FAILED_PRECONDITION, and the
  // spare waits again. Rank 0 is never given, since the rendezvous is at its address.
  //
  // DEADLINE_EXCEEDED: no rank was wanted in this time; otherwise as Join.
  static StatusOr<int32_t> AwaitAssignment(const Options& options, absl::Duration timeout);

  // Leaves the group: others are told, as far as they still listen, within kLeaveNs.
  ~GroupControl() override;

  int64_t epoch() const { return epoch_; }

  // What each rank brought to Join, by rank.
  const std::vector<std::string>& addresses() const { return addresses_; }

  // The end of the group, or OK.
  Status status();

  // This rank's data path is whole; waits until every rank's is, so that nobody closes a connection
  // that another is about to accept. Once, before the first Agree.
  Status AwaitConnected(absl::Duration timeout);

  // As Communicator's.
  StatusOr<StepHeader> Agree(const StepWish& wish, absl::Duration timeout);

  bool called() const { return called_; }

  void SetListener(std::function<void()> listener) { listener_.Set(std::move(listener)); }

  // Reports a fault and returns what ended the group: this, or what came before it.
  Status End(FaultKind kind, int32_t rank, std::string reason);

  // As End, from any thread and without waiting; status() is an error from now on.
  void Report(FaultKind kind, int32_t rank, std::string reason);

  // From here to Unwatch the caller waits for this rank, and past the deadline the group ends.
  void Watch(int32_t rank, int64_t deadline_ns, const std::string& what);
  void Unwatch();

 private:
  static constexpr int64_t kTickMs = 20;
  static constexpr int64_t kLeaveNs = 200'000'000;
  static constexpr int32_t kWhoeverIsMissing = -1;

  struct Watched {
    int32_t rank = 0;
    int64_t deadline_ns = 0;
    std::string what;
  };

  GroupControl(const Options& options, std::string addresses, std::function<void()> on_fault);

  Status Listen();
  Status Run(absl::Duration timeout);
  StatusOr<StepHeader> AwaitStep(const StepWish& wish,
                                 absl::Duration timeout,
                                 const std::string& what);
  // The rest runs on the control thread.
  void Connect() override;
  void Send(const ControlMessage& message) override;
  void Close() override;
  void ScheduleTick();
  void Tick();
  void CheckWatched(int64_t now_ns);
  void Publish();
  void Leave();
  void StopIfAlone();

  const Options options_;
  const std::function<void()> on_fault_;
  Listener listener_;
  // Set before Join returns.
  std::vector<std::string> addresses_;
  int64_t epoch_ = 0;

  // Control thread.
  boost::asio::io_context io_;
  boost::asio::steady_timer tick_;
  boost::asio::ip::tcp::endpoint hub_address_;
  std::unique_ptr<RendezvousServer> server_;  // Rank 0.
  std::shared_ptr<boost::asio::ip::tcp::socket> connecting_;
  std::shared_ptr<ControlConnection> link_;
  GroupMember member_;
  int64_t leave_ns_ = 0;  // When to stop waiting for the others; 0: not leaving.

  // What the control thread tells the others of member_.
  std::atomic<bool> leaving_ = false;
  std::atomic<bool> called_ = false;
  absl::Mutex mutex_;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  bool reported_ ABSL_GUARDED_BY(mutex_) = false;  // A fault, which the control thread will know.
  Status refused_ ABSL_GUARDED_BY(mutex_);
  std::optional<int32_t> assigned_ ABSL_GUARDED_BY(mutex_);
  std::optional<GroupFault> fault_ ABSL_GUARDED_BY(mutex_);
  std::optional<StepHeader> header_ ABSL_GUARDED_BY(mutex_);
  std::optional<Watched> watched_ ABSL_GUARDED_BY(mutex_);
  int64_t next_step_ = kConnectedStep;  // That the calling thread will be ready for.

  std::thread thread_;
};

// The epoch_min of a process that has seen no group: the time in milliseconds since 1970. A process
// without memory then never makes an epoch that a group it cannot know of has used, as 1 would.
inline int64_t FirstEpochMin(const Clock& clock = Clock::Real()) {
  return clock.UnixNs() / 1'000'000;
}

}  // namespace facet::worker
