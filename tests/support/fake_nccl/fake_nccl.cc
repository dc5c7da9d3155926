// Built with FAKE_NCCL_WITHOUT_OPTIONS: lacks what NCCL 2.28.3 may lack; with
// FAKE_NCCL_WITHOUT_ALL_GATHER: lacks something that is needed.
#include "tests/support/fake_nccl/fake_nccl.h"

#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "worker/comm/nccl_api.h"

namespace {

using facet::FakeNcclSwitches;
using facet::worker::nccl::Config;
using facet::worker::nccl::DataType;
using facet::worker::nccl::kInProgress;
using facet::worker::nccl::kInvalidArgument;
using facet::worker::nccl::kRemoteError;
using facet::worker::nccl::kSuccess;
using facet::worker::nccl::kSystemError;
using facet::worker::nccl::Result;
using facet::worker::nccl::Stream;
using facet::worker::nccl::UniqueId;

enum class Verb { kAllToAll, kAllGather };

// One rank's part of a transfer.
struct Part {
  Verb verb = Verb::kAllToAll;
  const char* send = nullptr;
  char* recv = nullptr;
  size_t count = 0;
  bool ended = false;
};

struct Group {
  explicit Group(int size) : num_ranks(size) {}

  const int num_ranks;
  int num_joined = 0;
  // By number, then rank: parts that streams have come to and that have not ended.
  std::map<int64_t, std::map<int, std::shared_ptr<Part>>> transfers;
};

std::mutex mutex;  // Of everything here.
std::map<std::string, std::shared_ptr<Group>> groups;
int num_ids = 0;
FakeNcclSwitches switches;

}  // namespace

struct ncclComm {
  std::shared_ptr<Group> group;
  std::string id;
  int rank = 0;
  int64_t num_transfers = 0;
  bool revoked = false;
  std::vector<std::shared_ptr<Part>> parts;  // On the stream.
  // What sends and receives between ncclGroupStart and ncclGroupEnd amount to.
  Part grouped;
  Stream grouped_stream = nullptr;
};

namespace {

thread_local ncclComm* grouped_comm = nullptr;

bool AreStuck(int a, int b) {
  const int first = switches.stuck_ranks[0];
  const int second = switches.stuck_ranks[1];
  return a != b && (a == first || a == second) && (b == first || b == second);
}

// Moves the blocks of a transfer that all ranks have come to; ranks of a stuck pair stay in it.
void Complete(std::map<int, std::shared_ptr<Part>>& parts) {
  const Part& first = *parts.begin()->second;
  for (const auto& [rank, part] : parts) {
    if (part->verb != first.verb || part->count != first.count) return;
  }
  for (const auto& [to, part] : parts) {
    bool complete = true;
    for (const auto& [from, other] : parts) {
      if (AreStuck(from, to)) {
        complete = false;
        continue;
      }
      const char* block =
          other->verb == Verb::kAllGather ? other->send : other->send + to * part->count;
      std::memcpy(part->recv + from * part->count, block, part->count);
    }
    part->ended = complete;
  }
  std::erase_if(parts, [](const auto& entry) { return entry.second->ended; });
}

// The rank's stream has come to this transfer.
bool HasEnded(Group& group, int64_t number, int rank, const std::shared_ptr<Part>& part) {
  const std::scoped_lock lock(mutex);
  if (part->ended) return true;
  std::map<int, std::shared_ptr<Part>>& parts = group.transfers[number];
  parts[rank] = part;
  if (static_cast<int>(parts.size()) == group.num_ranks) Complete(parts);
  if (parts.empty()) group.transfers.erase(number);
  return part->ended;
}

Result Enqueue(ncclComm& comm, const Part& asked, Stream stream) {
  const auto part = std::make_shared<Part>(asked);
  int64_t number = 0;
  {
    const std::scoped_lock lock(mutex);
    if (comm.revoked) return kInvalidArgument;
    number = comm.num_transfers++;
    std::erase_if(comm.parts, [](const auto& old) { return old->ended; });
    comm.parts.push_back(part);
  }
  static_cast<facet::TransferQueue*>(stream)->EnqueueTransfer(
      [group = comm.group, number, rank = comm.rank, part] {
        return HasEnded(*group, number, rank, part);
      });
  return kSuccess;
}

// Takes a rank's transfers out of its stream.
void Withdraw(ncclComm& comm) {
  for (const std::shared_ptr<Part>& part : comm.parts) part->ended = true;
  for (auto& [number, parts] : comm.group->transfers) parts.erase(comm.rank);
}

ncclComm* Join(const std::string& id, int num_ranks, int rank) {
  std::shared_ptr<Group>& group = groups[id];
  if (group == nullptr) group = std::make_shared<Group>(num_ranks);
  ++group->num_joined;
  return new ncclComm{.group = group, .id = id, .rank = rank};
}

}  // namespace

// NOLINTBEGIN(readability-identifier-naming): NCCL's names.
extern "C" {

FakeNcclSwitches* FakeNccl() { return &switches; }

Result ncclGetVersion(int* version) {
  *version = switches.version;
  return kSuccess;
}

const char* ncclGetErrorString(Result result) {
  switch (result) {
    case kSystemError:
      return "unhandled system error";
    case kRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "invalid argument";
  }
}

const char* ncclGetLastError(const ncclComm* /*comm*/) { return "said by the fake"; }

Result ncclGetUniqueId(UniqueId* id) {
  const std::scoped_lock lock(mutex);
  std::memset(id->bytes, 0, sizeof id->bytes);
  std::snprintf(id->bytes, sizeof id->bytes, "group %d", num_ids++);
  return kSuccess;
}

Result ncclCommInitRankConfig(
    ncclComm** comm, int num_ranks, UniqueId id, int rank, Config* config) {
  const bool known = config->size == sizeof(Config) && config->magic == 0xcafebeef;
  if (!known || config->blocking != 0) return kInvalidArgument;
  const std::scoped_lock lock(mutex);
  *comm = Join(id.bytes, num_ranks, rank);
  return kInProgress;
}

Result ncclCommGetAsyncError(ncclComm* comm, Result* error) {
  const std::scoped_lock lock(mutex);
  *error = kSuccess;
  if (comm->group->num_joined < comm->group->num_ranks || switches.init_stays_in_progress) {
    *error = kInProgress;
  } else if (switches.failing_transfer >= 0 && comm->rank == switches.failing_rank &&
             comm->num_transfers > switches.failing_transfer) {
    *error = kRemoteError;
  }
  return kSuccess;
}

Result ncclCommFinalize(ncclComm* /*comm*/) { return kSuccess; }

Result ncclCommDestroy(ncclComm* comm) {
  ++switches.num_destroyed;
  delete comm;
  return kSuccess;
}

Result ncclCommAbort(ncclComm* comm) {
  const std::scoped_lock lock(mutex);
  ++switches.num_aborted;
  Withdraw(*comm);
  delete comm;
  return kSuccess;
}

Result ncclCommShrink(ncclComm* comm,
                      int* exclude,
                      int num_exclude,
                      ncclComm** shrunk,
                      Config* config,
                      int /*flags*/) {
  if (config->blocking != 0) return kInvalidArgument;
  const std::scoped_lock lock(mutex);
  std::string id = comm->id + " without";
  int rank = comm->rank;
  for (int i = 0; i < num_exclude; ++i) {
    if (exclude[i] < comm->rank) --rank;
    id += " " + std::to_string(exclude[i]);
  }
  *shrunk = Join(id, comm->group->num_ranks - num_exclude, rank);
  return kInProgress;
}

Result ncclGroupStart() { return kSuccess; }

Result ncclGroupEnd() {
  ncclComm* comm = grouped_comm;
  grouped_comm = nullptr;
  return comm == nullptr ? kSuccess : Enqueue(*comm, comm->grouped, comm->grouped_stream);
}

// All-to-all is the one group of sends and receives that is known: peers upwards, a block each.
Result ncclSend(
    const void* from, size_t count, DataType type, int peer, ncclComm* comm, Stream stream) {
  if (type != facet::worker::nccl::kInt8) return kInvalidArgument;
  if (peer == 0) {
    grouped_comm = comm;
    comm->grouped = {.send = static_cast<const char*>(from), .count = count};
    comm->grouped_stream = stream;
  }
  const bool fits = comm->grouped.send + peer * count == from && comm->grouped.count == count;
  return fits ? kSuccess : kInvalidArgument;
}

Result ncclRecv(
    void* to, size_t count, DataType /*type*/, int peer, ncclComm* comm, Stream /*stream*/) {
  if (peer == 0) comm->grouped.recv = static_cast<char*>(to);
  return comm->grouped.recv + peer * count == to ? kSuccess : kInvalidArgument;
}

#ifndef FAKE_NCCL_WITHOUT_ALL_GATHER
Result ncclAllGather(
    const void* from, void* to, size_t count, DataType /*type*/, ncclComm* comm, Stream stream) {
  return Enqueue(*comm,
                 {.verb = Verb::kAllGather,
                  .send = static_cast<const char*>(from),
                  .recv = static_cast<char*>(to),
                  .count = count},
                 stream);
}
#endif

#ifndef FAKE_NCCL_WITHOUT_OPTIONS
Result ncclAlltoAll(
    const void* from, void* to, size_t count, DataType /*type*/, ncclComm* comm, Stream stream) {
  return Enqueue(
      *comm,
      {.send = static_cast<const char*>(from), .recv = static_cast<char*>(to), .count = count},
      stream);
}

Result ncclCommRevoke(ncclComm* comm, int /*flags*/) {
  const std::scoped_lock lock(mutex);
  ++switches.num_revoked;
  comm->revoked = true;
  Withdraw(*comm);
  return kSuccess;
}
#endif

}  // extern "C"
// NOLINTEND(readability-identifier-naming)
