#include "worker/executor/rank_group.h"

#include <utility>

namespace facet::worker {

RankGroup::RankGroup(Form form, ModelExecutor& executor, Events events, int64_t epoch_min)
    : form_(std::move(form)),
      executor_(executor),
      events_(std::move(events)),
      first_epoch_min_(epoch_min),
      thread_([this] { ThreadMain(); }) {}

RankGroup::~RankGroup() {
  Leave(absl::ZeroDuration());
  thread_.join();
}

void RankGroup::Leave(absl::Duration timeout) {
  {
    absl::MutexLock lock(&mutex_);
    leaving_ = true;
  }
  executor_.LeaveGroup();
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&over_), timeout);
  abandoned_ = !over_;
}

void RankGroup::ThreadMain() {
  int64_t epoch_min = first_epoch_min_;
  while (true) {
    StatusOr<std::unique_ptr<Communicator>> formed = form_(epoch_min, kFormTimeout);
    if (formed.ok()) epoch_min = (*formed)->epoch() + 1;
    const Status end = formed.ok() ? ServeEpoch(**formed) : formed.status();
    if (!end.ok()) events_.on_not_formed(end);
    absl::MutexLock lock(&mutex_);
    if (!mutex_.AwaitWithTimeout(absl::Condition(&leaving_), kRetryDelay)) continue;
    over_ = true;
    return;
  }
}

Status RankGroup::ServeEpoch(Communicator& communicator) {
  executor_.JoinGroup(communicator, [this] { OnGroupEvent(); });
  events_.on_formed(communicator.epoch());  // Steps are the group's from now on.
  Status end;
  bool told = false;
  while (true) {
    int64_t seen = 0;
    bool abandoned = false;
    {
      absl::MutexLock lock(&mutex_);
      seen = num_events_;
      abandoned = abandoned_;
    }
    if (abandoned) communicator.Abort(communicator.epoch(), "the rank ends").IgnoreError();
    end = communicator.status();
    const StepHeader latest = executor_.group_header();
    if (!end.ok() || latest.all_leaving()) break;
    if (latest.any_leaving() && !std::exchange(told, true)) events_.on_peer_leaves();
    const auto changed = [this, seen, abandoned]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return num_events_ != seen || abandoned_ != abandoned;
    };
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&changed));
  }
  executor_.QuitGroup(end.ok() ? Unavailable("the group has ended") : end);
  return end;
}

void RankGroup::OnGroupEvent() {
  absl::MutexLock lock(&mutex_);
  ++num_events_;
}

}  // namespace facet::worker
