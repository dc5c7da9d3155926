// Expert parallelism among GPUs, by NCCL 2.28 or newer, which is found at run time.
//
// Buffers are device memory and transfers are enqueued on the caller's stream; blocks have a fixed
// size, so no host reads a count. All-to-all is ncclAlltoAll where the library has it, else grouped
// sends and receives; the small all-gather is ncclAllGather.
//
// What Await means depends on NcclAwait. In stream order, the form for serving, it waits for no
// transfer: what the caller enqueues next runs behind it. It does wait, up to its timeout, until
// NCCL has put the transfer on the stream, which takes other ranks only where ranks meet for the
// first time. Synchronize, once a step, is then what bounds the wait for a rank that does not come.
//
// Faults. Rendezvous, key, heartbeats and the verdict are GroupControl's; NCCL's id travels with
// the addresses. When the group ends, the control thread stops NCCL (revoke where the library can,
// else abort), which lets kernels that wait for a dead rank leave the stream; every call then
// returns the verdict. NCCL knows that something failed but not who: its error waits for the
// control connection to name a rank and is this rank's own report only if nobody does. A missed
// deadline names this rank for the same reason.
//
// NCCL opens ports and connections of its own, unencrypted and without the group key: a private
// network is a must. All ranks need one version of the library.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/status.h"
#include "kernels/device_stream.h"
#include "worker/comm/communicator.h"
#include "worker/comm/group_control.h"

namespace facet::worker {

enum class NcclAwait {
  kStreamOrder,  // Await returns once the transfer is on the stream.
  kHost,         // Await returns once it has run: for hosts that read blocks, and for tests.
};

struct NcclOptions {
  GroupControl::Options control;
  std::string library;  // A path; empty: libnccl.so.2 in the loader's path.
  const kernels::DeviceStream* stream = nullptr;  // Of the buffers' device; outlives the group.
  NcclAwait await = NcclAwait::kStreamOrder;
  // For NCCL to connect the ranks once all are there: it looks at the machine's network and
  // devices, seconds where they are many. A rank that dies meanwhile is found by the control
  // connection.
  absl::Duration init_timeout = absl::Seconds(60);
};

// This rank's end of the group, once all ranks came, within timeout, and NCCL has connected them.
// The stream's device is then the calling thread's; it must be that of the threads that start
// transfers, too.
// Errors as GroupControl::Join and NcclLibrary::Open; ABORTED if the ranks' libraries differ.
StatusOr<std::unique_ptr<Communicator>> FormNccl(const NcclOptions& options,
                                                 absl::Duration timeout);

}  // namespace facet::worker
