// A rank's life in its expert-parallel group: it forms the group, lends the communicator to the
// executor, and when the group ends it forms it anew, with a higher epoch, until this rank leaves.
//
//   forming ⇄ formed → left
//
// A thread of its own does that, and calls the events. A rank that wants to leave goes on taking
// part in the others' steps until all of them want to: a group ends whole.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "worker/comm/communicator.h"
#include "worker/executor/model_executor.h"

namespace facet::worker {

class RankGroup {
 public:
  // Forms a group of this epoch or a later one; errors are tried again.
  using Form = std::function<StatusOr<std::unique_ptr<Communicator>>(int64_t epoch_min,
                                                                     absl::Duration timeout)>;

  // On the group's thread, in the order of what happens.
  struct Events {
    // The executor is in the group; to call its ServeOthers is left to this, or to what follows.
    std::function<void(int64_t epoch)> on_formed;
    // What ended the group, or why it was not formed.
    std::function<void(const Status& cause)> on_not_formed;
    // Another rank wants to leave: this one is to drain, too. Once in each epoch.
    std::function<void()> on_peer_leaves;
  };

  // The executor must outlive the group. epoch_min: of the first epoch (FirstEpochMin).
  RankGroup(Form form, ModelExecutor& executor, Events events, int64_t epoch_min);
  ~RankGroup();

  // This rank wants no more steps of its own. Returns when all ranks do, or when the group ends
  // otherwise, or at the deadline.
  void Leave(absl::Duration timeout);

 private:
  static constexpr absl::Duration kFormTimeout = absl::Seconds(4);
  static constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);

  void ThreadMain();
  // Serves until the group ends or all ranks leave.
  Status ServeEpoch(Communicator& communicator);
  // The group has ended, or its ranks have told what they want. Any thread.
  void OnGroupEvent();

  const Form form_;
  ModelExecutor& executor_;
  const Events events_;
  const int64_t first_epoch_min_;
  absl::Mutex mutex_;
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;  // Not even the others' steps are waited for.
  bool over_ ABSL_GUARDED_BY(mutex_) = false;       // The thread forms no group any more.
  int64_t num_events_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_;
};

}  // namespace facet::worker
