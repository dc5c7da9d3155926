#include "worker/comm/local_communicator.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "worker/comm/group_fault.h"
#include "worker/comm/listener.h"
#include "worker/comm/step_header.h"
#include "worker/comm/transfer.h"

namespace facet::worker {
namespace {

int64_t DeadlineNs(absl::Duration timeout) {
  return Clock::Real().NowNs() + absl::ToInt64Nanoseconds(timeout);
}

}  // namespace

// What the ranks of one epoch share. Ranks post the memory of their transfer, copy their block out
// of each other's, and withdraw the post when nobody copies from it any more.
class LocalRendezvous::Group {
 public:
  struct Post {
    bool left = false;
    Transfer transfer;  // The latest; its memory is valid while `open`.
    bool open = false;
    int32_t num_taken = 0;    // Ranks that have their block, this one included.
    int32_t num_copying = 0;  // Ranks that read the memory now.
  };

  Group(int32_t num_ranks, int64_t epoch_min)
      : called(num_ranks),
        listeners(num_ranks),
        epoch(epoch_min),
        posts(num_ranks),
        present(num_ranks),
        wake(num_ranks),
        round(num_ranks) {}

  bool Complete() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return num_present == static_cast<int32_t>(posts.size());
  }

  // The first fault stays.
  Status Fail(FaultKind kind, int32_t rank, std::string reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (!fault) fault = {.kind = kind, .rank = rank, .epoch = epoch, .reason = std::move(reason)};
    wake.assign(wake.size(), true);
    changed.SignalAll();
    return StatusOf(*fault);
  }

  bool InTransfer() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return std::any_of(posts.begin(), posts.end(), [](const Post& p) { return p.open; });
  }

  // A rank that has left; -1: none has.
  int32_t FirstLeft() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const auto left =
        std::find_if(posts.begin(), posts.end(), [](const Post& p) { return p.left; });
    return left == posts.end() ? -1 : static_cast<int32_t>(left - posts.begin());
  }

  // Calls those that `wake` names, without the mutex, which they might wait for elsewhere.
  void CallListeners() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (std::find(wake.begin(), wake.end(), true) == wake.end()) return;
    std::vector<bool> due(wake.size());
    due.swap(wake);
    mutex.Unlock();
    for (size_t rank = 0; rank < due.size(); ++rank) {
      if (due[rank]) listeners[rank].Call();
    }
    mutex.Lock();
  }

  std::vector<std::atomic<bool>> called;  // By rank, as are the listeners.
  std::vector<Listener> listeners;
  absl::Mutex mutex;
  absl::CondVar changed;
  int64_t epoch ABSL_GUARDED_BY(mutex);  // While forming, the highest that a rank came with.
  std::optional<GroupFault> fault ABSL_GUARDED_BY(mutex);
  std::vector<Post> posts ABSL_GUARDED_BY(mutex);
  std::vector<bool> present ABSL_GUARDED_BY(mutex);
  int32_t num_present ABSL_GUARDED_BY(mutex) = 0;
  std::vector<bool> wake ABSL_GUARDED_BY(mutex);  // Whose listener is to be called.
  StepRound round ABSL_GUARDED_BY(mutex);
  StepHeader header ABSL_GUARDED_BY(mutex) = {.step = -1};  // Of the last step that has begun.
};

namespace {

using Group = LocalRendezvous::Group;

// Holds a group's mutex, and calls the listeners that are due before it gives it back.
class ABSL_SCOPED_LOCKABLE GroupLock {
 public:
  explicit GroupLock(Group& group) ABSL_EXCLUSIVE_LOCK_FUNCTION(group.mutex) : group_(group) {
    group_.mutex.Lock();
  }

  GroupLock(const GroupLock&) = delete;
  GroupLock& operator=(const GroupLock&) = delete;

  ~GroupLock() ABSL_UNLOCK_FUNCTION() {
    group_.CallListeners();
    group_.mutex.Unlock();
  }

 private:
  Group& group_;
};

class LocalCommunicator : public Communicator {
 public:
  LocalCommunicator(int32_t rank, int32_t num_ranks, int64_t epoch, std::shared_ptr<Group> group)
      : Communicator(rank, num_ranks), group_(std::move(group)) {
    set_epoch(epoch);
  }

  ~LocalCommunicator() override {
    group_->listeners[rank()].Set(nullptr);
    GroupLock lock(*group_);
    Group::Post& mine = group_->posts[rank()];
    if (mine.open)
      (void)group_->Fail(FaultKind::kLost, rank(), "left during " + NameOf(mine.transfer));
    Withdraw();
    mine.left = true;
    group_->changed.SignalAll();
  }

  bool called() const override { return group_->called[rank()]; }

  Status status() override {
    absl::MutexLock lock(&group_->mutex);
    return group_->fault ? StatusOf(*group_->fault) : absl::OkStatus();
  }

  void SetListener(std::function<void()> listener) override {
    group_->listeners[rank()].Set(std::move(listener));
  }

 private:
  Status Start(const Transfer& transfer) override {
    GroupLock lock(*group_);
    if (group_->fault) return StatusOf(*group_->fault);
    Group::Post& mine = group_->posts[rank()];
    mine.transfer = transfer;
    mine.open = true;
    mine.num_taken = 0;
    group_->changed.SignalAll();
    return absl::OkStatus();
  }

  Status Finish(const Transfer& transfer, absl::Duration timeout) override {
    const int64_t deadline_ns = DeadlineNs(timeout);
    GroupLock lock(*group_);
    Status status = TakeAll(transfer, deadline_ns);
    Withdraw();
    return status;
  }

  // Copies a block from every rank as they come, then waits until all have theirs.
  Status TakeAll(const Transfer& transfer, int64_t deadline_ns)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mutex) {
    std::vector<bool> taken(num_ranks());
    const Group::Post& mine = group_->posts[rank()];
    while (true) {
      const bool has_all = std::find(taken.begin(), taken.end(), false) == taken.end();
      // Whole, whatever came after.
      if (has_all && mine.num_taken == num_ranks()) return absl::OkStatus();
      int32_t missing = -1;  // A rank that has not come.
      bool progress = false;
      for (int32_t from = 0; from < num_ranks(); ++from) {
        if (taken[from]) continue;
        const Group::Post& post = group_->posts[from];
        if (post.open && post.transfer.number == transfer.number) {
          FACET_RETURN_IF_ERROR(Take(transfer, from));
          taken[from] = true;
          progress = true;
        } else if (missing < 0) {
          missing = from;
        }
      }
      if (progress) continue;  // The lock was given up: look again.
      if (group_->fault) return StatusOf(*group_->fault);
      if (missing < 0) missing = RankWithoutMyBlock(transfer.number);
      if (group_->posts[missing].left) {
        return group_->Fail(FaultKind::kLost, missing, "left before " + NameOf(transfer));
      }
      if (!WaitForChange(deadline_ns)) {
        return group_->Fail(
            FaultKind::kDeadline, missing,
            StrCat("not there for ", NameOf(transfer), " at rank ", rank(), "'s deadline"));
      }
    }
  }

  Status Take(const Transfer& transfer, int32_t from) ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mutex) {
    Group::Post& post = group_->posts[from];
    if (!post.transfer.Fits(transfer)) {
      return group_->Fail(FaultKind::kAborted, from,
                          StrCat("calls ", NameOf(post.transfer), " where rank ", rank(), " calls ",
                                 NameOf(transfer)));
    }
    ++post.num_copying;
    const std::byte* block = post.transfer.SendBlock(rank());
    group_->mutex.Unlock();
    std::memcpy(transfer.RecvBlock(from), block, transfer.block_bytes);
    group_->mutex.Lock();
    --post.num_copying;
    ++post.num_taken;
    group_->changed.SignalAll();
    return absl::OkStatus();
  }

  // All have come, but not all have taken: they do as soon as they await, unless they leave.
  int32_t RankWithoutMyBlock(int64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mutex) {
    int32_t found = rank();
    for (int32_t other = 0; other < num_ranks(); ++other) {
      const Group::Post& post = group_->posts[other];
      if (other != rank() && post.open && post.transfer.number == number) found = other;
    }
    return found;
  }

  // False at the deadline.
  bool WaitForChange(int64_t deadline_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mutex) {
    const int64_t left_ns = deadline_ns - Clock::Real().NowNs();
    if (left_ns <= 0) return false;
    group_->changed.WaitWithTimeout(&group_->mutex, absl::Nanoseconds(left_ns));
    return true;
  }

  // Copies are finite, so this is not a wait for a rank.
  void Withdraw() ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mutex) {
    Group::Post& mine = group_->posts[rank()];
    while (mine.num_copying > 0) group_->changed.Wait(&group_->mutex);
    mine.open = false;
  }

  StatusOr<StepHeader> DoAgree(const StepWish& wish, absl::Duration timeout) override {
    const int64_t deadline_ns = DeadlineNs(timeout);
    GroupLock lock(*group_);
    if (group_->fault) return StatusOf(*group_->fault);
    StepRound& round = group_->round;
    const int64_t step = round.step();
    round.SetReady(rank(), wish);
    group_->called[rank()] = false;
    if (round.complete()) {
      group_->header = round.Take();
      group_->changed.SignalAll();
    } else if (round.num_ready() == 1) {
      CallTheOthers();
    }
    while (group_->header.step != step) {
      if (group_->fault) return StatusOf(*group_->fault);
      if (const int32_t left = group_->FirstLeft(); left >= 0) {
        return group_->Fail(FaultKind::kLost, left, StrCat("left before step ", step));
      }
      if (!WaitForChange(deadline_ns)) {
        return group_->Fail(
            FaultKind::kDeadline, round.FirstAbsent(),
            StrCat("not ready for step ", step, " at rank ", rank(), "'s deadline"));
      }
    }
    return group_->header;
  }

  void CallTheOthers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mutex) {
    for (int32_t other = 0; other < num_ranks(); ++other) {
      if (other == rank()) continue;
      group_->called[other] = true;
      group_->wake[other] = true;
    }
    group_->CallListeners();
  }

  void EndGroup(std::string_view reason) override {
    GroupLock lock(*group_);
    (void)group_->Fail(FaultKind::kAborted, rank(), std::string(reason));
  }

  const std::shared_ptr<Group> group_;
};

}  // namespace

LocalRendezvous::LocalRendezvous(int32_t num_ranks) : num_ranks_(num_ranks) {}

LocalRendezvous::~LocalRendezvous() = default;

StatusOr<std::unique_ptr<Communicator>> LocalRendezvous::Form(int32_t rank,
                                                              int64_t epoch_min,
                                                              absl::Duration timeout) {
  FACET_CHECK(rank >= 0 && rank < num_ranks_) << rank;
  const int64_t deadline_ns = DeadlineNs(timeout);
  FACET_ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, TakeSeat(rank, epoch_min));
  GroupLock lock(*group);
  while (!group->Complete() && !group->fault) {
    const int64_t left_ns = deadline_ns - Clock::Real().NowNs();
    if (left_ns > 0) {
      group->changed.WaitWithTimeout(&group->mutex, absl::Nanoseconds(left_ns));
      continue;
    }
    int32_t missing = 0;
    while (group->present[missing]) ++missing;
    return group->Fail(FaultKind::kDeadline, missing,
                       StrCat("did not come to the rendezvous by rank ", rank, "'s deadline"));
  }
  if (!group->Complete()) return StatusOf(*group->fault);  // Else its calls say so.
  return std::make_unique<LocalCommunicator>(rank, num_ranks_, group->epoch, group);
}

StatusOr<std::shared_ptr<LocalRendezvous::Group>> LocalRendezvous::TakeSeat(int32_t rank,
                                                                            int64_t epoch_min) {
  absl::MutexLock lock(&mutex_);
  bool over = latest_ == nullptr;
  if (latest_ != nullptr) {
    GroupLock group_lock(*latest_);
    const bool left = latest_->posts[rank].left;
    if (latest_->present[rank] && !left && !latest_->fault) {
      return FailedPrecondition("rank ", rank, " of epoch ", latest_->epoch, " is taken");
    }
    // Ranks in a transfer see that it left when they next want it: what it has awaited is theirs.
    if (left && !latest_->header.all_leaving() && !latest_->InTransfer()) {
      (void)latest_->Fail(FaultKind::kLost, rank, "came to the rendezvous anew");
    }
    over = left || latest_->fault;
    if (over) epoch_min = std::max(epoch_min, latest_->epoch + 1);
  }
  if (over) latest_ = std::make_shared<Group>(num_ranks_, epoch_min);
  GroupLock group_lock(*latest_);
  latest_->epoch = std::max(latest_->epoch, epoch_min);
  latest_->present[rank] = true;
  ++latest_->num_present;
  latest_->changed.SignalAll();
  return latest_;
}

}  // namespace facet::worker
