// What expert parallelism needs of the ranks' connection: blocks to and from every rank, and a
// clear end when a rank fails. Peers: local (threads of one process), gloo (processes over TCP),
// nccl (GPUs).
//
//   FACET_RETURN_IF_ERROR(comm.Dispatch(send, recv));  // Starts; blocks travel from here …
//   dense path of the layer                            // … while the caller computes,
//   FACET_RETURN_IF_ERROR(comm.Await(timeout));        // … to here.
//   experts on recv; the same with Combine
//
// Buffers are rank-major and of a fixed size: block r of send goes to rank r, block r of recv came
// from rank r; all blocks of one call have one size, the same on every rank.
//
//   send of rank 1   [ to 0 | to 1 | to 2 ]         recv of rank 2   [ from 0 | from 1 | from 2 ]
//                                     └────────────────────────────────────────┘
//
// How many rows of a block mean something is written in the block (rank_blocks.h), so that no host
// has to know before the experts run. The peer on GPUs (nccl_communicator.h) enqueues on a stream,
// whose order then does what Await's return says here; a fault shows at a later call, and at
// Synchronize at the latest.
//
// Steps. Before each step the ranks agree that all are there and what each brings, beside the data
// path. A rank without work need not ask: it sleeps until another one calls.
//
//   comm.SetListener(wake me up);
//   if (there is work || comm.called()) {
//     FACET_ASSIGN_OR_RETURN(header, comm.Agree({.num_tokens = …}, timeout));  // All ranks do.
//     the same exchanges on every rank, as the header says
//   }
//
// Groups. A communicator is one rank's end of a group, and a group has an epoch: the highest of the
// epoch_min with which its ranks came. The ranks make the same calls in the same order. Whatever
// goes wrong ends the group for good: after an abort, a missed deadline or the loss of a rank every
// call of every rank returns one error that names rank, epoch and reason (group_fault.h), as soon
// as word reaches it; for a dead process that is well under a second. Received blocks are then not
// to be used. The way back is to destroy the communicator and to form a group anew, with the old
// epoch + 1 as epoch_min; nothing sent in one epoch is seen in another. A rank that destroys its
// communicator leaves: what it has awaited is complete for the others too, and what it has not
// joined fails for them. After a step in which all ranks were leaving every rank may destroy its
// communicator, and nobody sees a fault.
//
// Threads: one thread makes all calls, save Abort, called, status and SetListener, which any thread
// may call at any time before destruction begins. Memory of a call is the communicator's from its
// start to the return of Await, whatever Await returns, or to destruction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "absl/time/time.h"
#include "base/status.h"
#include "base/thread_checker.h"
#include "worker/comm/step_header.h"
#include "worker/comm/transfer.h"

namespace facet::worker {

class Communicator {
 public:
  virtual ~Communicator() = default;

  int32_t rank() const { return rank_; }

  int32_t num_ranks() const { return num_ranks_; }

  int64_t epoch() const { return epoch_; }

  // Starts sending the tokens' rows to the ranks of their experts. send and recv are
  // [num_ranks][block bytes], alike in size and apart in memory; other views CHECK-fail, as does a
  // call between a start and its Await. Waits for nobody.
  Status Dispatch(std::span<const std::byte> send, std::span<std::byte> recv);

  // Starts sending the experts' rows back; otherwise as Dispatch.
  Status Combine(std::span<const std::byte> send, std::span<std::byte> recv);

  // Starts sending one block to all ranks; all is [num_ranks][mine.size()], in rank order.
  // Otherwise as Dispatch.
  Status StartAllGather(std::span<const std::byte> mine, std::span<std::byte> all);

  // Waits for the end of what was started: recv is filled, send may be reused.
  // DEADLINE_EXCEEDED, within 100 ms after the timeout, names a rank that had not come.
  Status Await(absl::Duration timeout);

  // StartAllGather and Await.
  Status AllGather(std::span<const std::byte> mine,
                   std::span<std::byte> all,
                   absl::Duration timeout);

  // Waits until all transfers have run, and with them what else was enqueued on their stream; a
  // host's have when Await returns. To be called once a step, before anything waits for the stream
  // without a deadline. Errors as Await's.
  virtual Status Synchronize(absl::Duration /*timeout*/) { return status(); }

  // Ready for the next step: waits until every rank is, and returns what all brought, the same on
  // every rank. Neither num_tokens nor weight is negative. Errors as Await's.
  StatusOr<StepHeader> Agree(const StepWish& wish, absl::Duration timeout);

  // Whether another rank is ready for a step that this one has not joined. Any thread.
  virtual bool called() const = 0;

  // The end of the group, or OK. Any thread.
  virtual Status status() = 0;

  // From now on, until it is set to null: is called, on any thread and without delay, when called()
  // becomes true and when the group ends. What was true before is for the caller to look at. Must
  // not call the communicator. After the return the old listener is not running any more.
  virtual void SetListener(std::function<void()> listener) = 0;

  // Ends the group of this epoch for all ranks and wakes whoever waits. Late word of another epoch
  // does no harm: FAILED_PRECONDITION. The first cause stays; a later one changes nothing.
  Status Abort(int64_t epoch, std::string_view reason);

 protected:
  Communicator(int32_t rank, int32_t num_ranks) : rank_(rank), num_ranks_(num_ranks) {}

  // Once, when the group has formed.
  void set_epoch(int64_t epoch) { epoch_ = epoch; }

 private:
  // Begins and completes a transfer; Finish is called once for each Start that returned OK.
  virtual Status Start(const Transfer& transfer) = 0;
  virtual Status Finish(const Transfer& transfer, absl::Duration timeout) = 0;
  virtual StatusOr<StepHeader> DoAgree(const StepWish& wish, absl::Duration timeout) = 0;
  // From any thread.
  virtual void EndGroup(std::string_view reason) = 0;

  Status StartExchange(TransferVerb verb,
                       std::span<const std::byte> send,
                       std::span<std::byte> recv);
  // Numbers the transfer and starts it.
  Status Begin(Transfer transfer);

  const int32_t rank_;
  const int32_t num_ranks_;
  int64_t epoch_ = 0;
  ThreadChecker thread_;
  int64_t num_transfers_ = 0;
  std::optional<Transfer> in_flight_;
};

}  // namespace facet::worker
