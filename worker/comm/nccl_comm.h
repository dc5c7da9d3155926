// One ncclComm_t, owned: never blocks the host in NCCL, and never waits for a dead rank.
//
// NCCL works in the background here (blocking = 0): a call begins something, Progress says whether
// it has ended, and transfers run in the order of their stream. All of NCCL's states of failure are
// Statuses.
//
// Life: begun → ready (Progress) → stopped or destroyed. Stop may come from any thread at any time;
// the rest is one thread's. The thread's CUDA device is the communicator's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "worker/comm/nccl_library.h"

namespace facet::worker {

class NcclComm {
 public:
  // A fresh id for a group, made by one rank and brought to the others; opens a port of NCCL's own.
  static StatusOr<std::string> UniqueId(const NcclLibrary& library);

  // Begins to form the group with this id. Ready once Progress says kDone. INVALID_ARGUMENT if id
  // is none of UniqueId's.
  static StatusOr<std::unique_ptr<NcclComm>> Begin(const NcclLibrary& library,
                                                   const std::string& id,
                                                   int32_t rank,
                                                   int32_t num_ranks);

  NcclComm(const NcclComm&) = delete;
  NcclComm& operator=(const NcclComm&) = delete;

  // Says goodbye to the other ranks within kGoodbye if all is well, else aborts.
  ~NcclComm();

  enum class State { kRunning, kDone };

  // Whether what was begun on the host's side has ended. Of transfers: whether they are on the
  // stream. INTERNAL, with NCCL's words, if NCCL failed; ABORTED after Stop.
  StatusOr<State> Progress();

  // Enqueue a transfer of blocks of this size, rank-major, in device memory (communicator.h).
  Status AllToAll(const std::byte* send, std::byte* recv, int64_t block_bytes, nccl::Stream stream);
  Status AllGather(const std::byte* mine, std::byte* all, int64_t block_bytes, nccl::Stream stream);

  // Ends the transfers under way: their kernels leave the stream soon, whatever other ranks do.
  // Nothing can be enqueued any more. After a library without ncclCommRevoke nothing is left that
  // could shrink either.
  void Stop();

  // The communicator of the ranks that are left, in their order; called by them alone, with the
  // same ranks, stopped or not. DEADLINE_EXCEEDED if the survivors do not come together.
  StatusOr<std::unique_ptr<NcclComm>> Shrink(std::span<const int32_t> dead_ranks,
                                             absl::Duration timeout);

 private:
  static constexpr absl::Duration kGoodbye = absl::Milliseconds(500);

  NcclComm(const NcclLibrary& library, int32_t num_ranks)
      : library_(library), num_ranks_(num_ranks) {}

  // Whether the library has ended what was begun, waiting up to the timeout.
  StatusOr<bool> AwaitDone(absl::Duration timeout);
  StatusOr<State> ProgressLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status CheckUsable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Abort() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const NcclLibrary library_;
  const int32_t num_ranks_;
  // NCCL's calls on one communicator must not overlap. Held for a call, never for a wait.
  absl::Mutex mutex_;
  nccl::Comm comm_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace facet::worker
