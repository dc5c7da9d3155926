// Expert parallelism among threads of one process: a block is copied once, by the rank that
// receives it, out of the sender's memory.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/synchronization/mutex.h"
#include "worker/comm/communicator.h"

namespace facet::worker {

// Where the threads that are to be ranks find each other, one epoch after another. Any thread may
// call Form. Communicators may outlive it.
class LocalRendezvous {
 public:
  explicit LocalRendezvous(int32_t num_ranks);
  ~LocalRendezvous();

  // This rank's end of a new group, once all ranks have come. Its epoch is the highest epoch_min,
  // and above that of every older group. A group whose rank has left, and comes again, is over.
  // DEADLINE_EXCEEDED names a rank that did not come; FAILED_PRECONDITION if the rank is taken.
  StatusOr<std::unique_ptr<Communicator>> Form(int32_t rank,
                                               int64_t epoch_min,
                                               absl::Duration timeout);

  class Group;

 private:
  StatusOr<std::shared_ptr<Group>> TakeSeat(int32_t rank, int64_t epoch_min);

  const int32_t num_ranks_;
  absl::Mutex mutex_;
  std::shared_ptr<Group> latest_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace facet::worker
