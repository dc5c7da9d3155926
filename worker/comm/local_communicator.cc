#include "worker/comm/local_communicator.h"

#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "worker/comm/group_fault.h"
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

  Group(int32_t num_ranks, int64_t of_epoch)
      : epoch(of_epoch), posts(num_ranks), present(num_ranks) {}

  bool Complete() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return num_present == static_cast<int32_t>(posts.size());
  }

  // The first fault stays.
  Status Fail(FaultKind kind, int32_t rank, std::string reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (!fault) fault = {.kind = kind, .rank = rank, .epoch = epoch, .reason = std::move(reason)};
    changed.SignalAll();
    return StatusOf(*fault);
  }

  const int64_t epoch;
  absl::Mutex mutex;
  absl::CondVar changed;
  std::optional<GroupFault> fault ABSL_GUARDED_BY(mutex);
  std::vector<Post> posts ABSL_GUARDED_BY(mutex);
  std::vector<bool> present ABSL_GUARDED_BY(mutex);
  int32_t num_present ABSL_GUARDED_BY(mutex) = 0;
};

namespace {

using Group = LocalRendezvous::Group;

class LocalCommunicator : public Communicator {
 public:
  LocalCommunicator(int32_t rank, int32_t num_ranks, std::shared_ptr<Group> group)
      : Communicator(rank, num_ranks, group->epoch), group_(std::move(group)) {}

  ~LocalCommunicator() override {
    absl::MutexLock lock(&group_->mutex);
    Group::Post& mine = group_->posts[rank()];
    if (mine.open)
      (void)group_->Fail(FaultKind::kLost, rank(), "left during " + NameOf(mine.transfer));
    Withdraw();
    mine.left = true;
    group_->changed.SignalAll();
  }

 private:
  Status Start(const Transfer& transfer) override {
    absl::MutexLock lock(&group_->mutex);
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
    absl::MutexLock lock(&group_->mutex);
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
      if (group_->fault) return StatusOf(*group_->fault);
      int32_t missing = -1;  // A rank that has not come.
      bool progress = false;
      for (int32_t from = 0; from < num_ranks() && !group_->fault; ++from) {
        if (taken[from]) continue;
        if (group_->posts[from].transfer.number == transfer.number) {
          FACET_RETURN_IF_ERROR(Take(transfer, from));
          taken[from] = true;
          progress = true;
        } else if (missing < 0) {
          missing = from;
        }
      }
      if (progress) continue;  // The lock was given up: look again.
      if (missing < 0 && mine.num_taken == num_ranks()) return absl::OkStatus();
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

  void EndGroup(std::string_view reason) override {
    absl::MutexLock lock(&group_->mutex);
    (void)group_->Fail(FaultKind::kAborted, rank(), std::string(reason));
  }

  const std::shared_ptr<Group> group_;
};

}  // namespace

LocalRendezvous::LocalRendezvous(int32_t num_ranks) : num_ranks_(num_ranks) {}

LocalRendezvous::~LocalRendezvous() = default;

StatusOr<std::unique_ptr<Communicator>> LocalRendezvous::Form(int32_t rank,
                                                              int64_t epoch,
                                                              absl::Duration timeout) {
  FACET_CHECK(rank >= 0 && rank < num_ranks_) << rank;
  const int64_t deadline_ns = DeadlineNs(timeout);
  std::shared_ptr<Group> group;
  {
    absl::MutexLock lock(&mutex_);
    if (latest_ == nullptr || latest_->epoch < epoch) {
      latest_ = std::make_shared<Group>(num_ranks_, epoch);
    }
    if (latest_->epoch > epoch) {
      return FailedPrecondition("rank ", rank, " wants epoch ", epoch, ", which is over: epoch ",
                                latest_->epoch, " has begun");
    }
    group = latest_;
  }
  absl::MutexLock lock(&group->mutex);
  if (group->present[rank]) {
    return FailedPrecondition("rank ", rank, " of epoch ", epoch, " is taken");
  }
  group->present[rank] = true;
  ++group->num_present;
  group->changed.SignalAll();
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
  return std::make_unique<LocalCommunicator>(rank, num_ranks_, group);
}

}  // namespace facet::worker
