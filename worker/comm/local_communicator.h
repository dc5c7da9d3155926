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

  // This rank's end of the group with this epoch, once all ranks have asked for it.
  // DEADLINE_EXCEEDED names a rank that did not come; FAILED_PRECONDITION if a group of this or a
  // later epoch was formed already or forms now, or if the rank is taken.
  StatusOr<std::unique_ptr<Communicator>> Form(int32_t rank, int64_t epoch, absl::Duration timeout);

  class Group;

 private:
  const int32_t num_ranks_;
  absl::Mutex mutex_;
  std::shared_ptr<Group> latest_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace facet::worker
