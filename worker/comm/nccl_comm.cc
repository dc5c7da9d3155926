#include "worker/comm/nccl_comm.h"

#include <cstring>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/log.h"

namespace facet::worker {
namespace {

constexpr absl::Duration kPoll = absl::Microseconds(50);

nccl::Config ConfigOfOurs() {
  nccl::Config config;
  config.blocking = 0;
  return config;
}

}  // namespace

StatusOr<std::string> NcclComm::UniqueId(const NcclLibrary& library) {
  nccl::UniqueId id;
  FACET_RETURN_IF_ERROR(
      library.ToStatus(library.functions().get_unique_id(&id), nullptr, "ncclGetUniqueId"));
  return std::string(id.bytes, sizeof id.bytes);
}

StatusOr<std::unique_ptr<NcclComm>> NcclComm::Begin(const NcclLibrary& library,
                                                    const std::string& id,
                                                    int32_t rank,
                                                    int32_t num_ranks) {
  nccl::UniqueId unique_id;
  if (id.size() != sizeof unique_id.bytes) {
    return InvalidArgument("an id of NCCL has ", sizeof unique_id.bytes, " bytes; this one has ",
                           id.size());
  }
  std::memcpy(unique_id.bytes, id.data(), id.size());
  std::unique_ptr<NcclComm> comm(new NcclComm(library, num_ranks));
  absl::MutexLock lock(&comm->mutex_);
  nccl::Config config = ConfigOfOurs();
  const nccl::Result result =
      library.functions().comm_init_rank_config(&comm->comm_, num_ranks, unique_id, rank, &config);
  FACET_RETURN_IF_ERROR(library.ToStatus(result, nullptr, "ncclCommInitRankConfig"));
  return comm;
}

NcclComm::~NcclComm() {
  absl::MutexLock lock(&mutex_);
  if (comm_ == nullptr) return;
  const nccl::Functions& f = library_.functions();
  const int64_t deadline_ns = Clock::Real().NowNs() + absl::ToInt64Nanoseconds(kGoodbye);
  bool whole = ready_ && !stopped_ &&
               library_.ToStatus(f.comm_finalize(comm_), comm_, "ncclCommFinalize").ok();
  while (whole) {
    const auto state = ProgressLocked();
    if (state.ok() && *state == State::kDone) break;
    whole = state.ok() && Clock::Real().NowNs() < deadline_ns;
    if (whole) absl::SleepFor(kPoll);
  }
  if (!whole) {
    Abort();
  } else if (const Status status =
                 library_.ToStatus(f.comm_destroy(comm_), nullptr, "ncclCommDestroy");
             !status.ok()) {
    Log(kWarning, "leaving a group failed", {{"reason", MessageOf(status)}});
  }
}

StatusOr<NcclComm::State> NcclComm::Progress() {
  absl::MutexLock lock(&mutex_);
  FACET_RETURN_IF_ERROR(CheckUsable());
  return ProgressLocked();
}

StatusOr<NcclComm::State> NcclComm::ProgressLocked() {
  nccl::Result error = nccl::kSuccess;
  const nccl::Result result = library_.functions().comm_get_async_error(comm_, &error);
  FACET_RETURN_IF_ERROR(library_.ToStatus(result, comm_, "ncclCommGetAsyncError"));
  FACET_RETURN_IF_ERROR(library_.ToStatus(error, comm_, "NCCL"));
  if (error == nccl::kInProgress) return State::kRunning;
  ready_ = true;
  return State::kDone;
}

Status NcclComm::AllToAll(const std::byte* send,
                          std::byte* recv,
                          int64_t block_bytes,
                          nccl::Stream stream) {
  absl::MutexLock lock(&mutex_);
  FACET_RETURN_IF_ERROR(CheckUsable());
  const nccl::Functions& f = library_.functions();
  const auto count = static_cast<size_t>(block_bytes);
  if (f.all_to_all != nullptr) {
    return library_.ToStatus(f.all_to_all(send, recv, count, nccl::kInt8, comm_, stream), comm_,
                             "ncclAlltoAll");
  }
  Status first = library_.ToStatus(f.group_start(), comm_, "ncclGroupStart");
  for (int32_t peer = 0; first.ok() && peer < num_ranks_; ++peer) {
    const int64_t at = peer * block_bytes;
    first = library_.ToStatus(f.send(send + at, count, nccl::kInt8, peer, comm_, stream), comm_,
                              "ncclSend");
    if (!first.ok()) break;
    first = library_.ToStatus(f.recv(recv + at, count, nccl::kInt8, peer, comm_, stream), comm_,
                              "ncclRecv");
  }
  const Status end = library_.ToStatus(f.group_end(), comm_, "ncclGroupEnd");
  return first.ok() ? end : first;
}

Status NcclComm::AllGather(const std::byte* mine,
                           std::byte* all,
                           int64_t block_bytes,
                           nccl::Stream stream) {
  absl::MutexLock lock(&mutex_);
  FACET_RETURN_IF_ERROR(CheckUsable());
  const nccl::Result result = library_.functions().all_gather(
      mine, all, static_cast<size_t>(block_bytes), nccl::kInt8, comm_, stream);
  return library_.ToStatus(result, comm_, "ncclAllGather");
}

void NcclComm::Stop() {
  absl::MutexLock lock(&mutex_);
  if (stopped_ || comm_ == nullptr) return;
  stopped_ = true;
  const nccl::Functions& f = library_.functions();
  // Revoking leaves something to shrink, but only of a communicator that was ready.
  if (ready_ && f.comm_revoke != nullptr &&
      library_.ToStatus(f.comm_revoke(comm_, 0), comm_, "ncclCommRevoke").ok()) {
    return;
  }
  Abort();
}

void NcclComm::Abort() {
  const Status status =
      library_.ToStatus(library_.functions().comm_abort(comm_), nullptr, "ncclCommAbort");
  comm_ = nullptr;
  if (!status.ok()) Log(kWarning, "ending a group failed", {{"reason", MessageOf(status)}});
}

Status NcclComm::CheckUsable() const {
  if (stopped_) return absl::AbortedError("NCCL's communicator was stopped");
  return absl::OkStatus();
}

StatusOr<std::unique_ptr<NcclComm>> NcclComm::Shrink(std::span<const int32_t> dead_ranks,
                                                     absl::Duration timeout) {
  const auto num_dead = static_cast<int32_t>(dead_ranks.size());
  std::unique_ptr<NcclComm> shrunk(new NcclComm(library_, num_ranks_ - num_dead));
  {
    absl::MutexLock lock(&mutex_);
    if (comm_ == nullptr) {
      return FailedPrecondition("an aborted communicator cannot shrink; NCCL ",
                                NcclLibrary::NameOfVersion(library_.version()),
                                " has no ncclCommRevoke");
    }
    std::vector<int> exclude(dead_ranks.begin(), dead_ranks.end());
    nccl::Config config = ConfigOfOurs();
    absl::MutexLock shrunk_lock(&shrunk->mutex_);
    const nccl::Result result = library_.functions().comm_shrink(
        comm_, exclude.data(), num_dead, &shrunk->comm_, &config, nccl::kShrinkAbort);
    FACET_RETURN_IF_ERROR(library_.ToStatus(result, comm_, "ncclCommShrink"));
  }
  // NCCL shows the progress at the parent until the new communicator has a handle, then there.
  for (NcclComm* comm : {this, shrunk.get()}) {
    FACET_ASSIGN_OR_RETURN(const bool done, comm->AwaitDone(timeout));
    if (!done) {
      return absl::DeadlineExceededError("NCCL's survivors did not come together to shrink");
    }
  }
  return shrunk;
}

StatusOr<bool> NcclComm::AwaitDone(absl::Duration timeout) {
  const int64_t deadline_ns = Clock::Real().NowNs() + absl::ToInt64Nanoseconds(timeout);
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (comm_ == nullptr) return Internal("ncclCommShrink left no communicator");
      FACET_ASSIGN_OR_RETURN(const State state, ProgressLocked());
      if (state == State::kDone) return true;
    }
    if (Clock::Real().NowNs() > deadline_ns) return false;
    absl::SleepFor(kPoll);
  }
}

}  // namespace facet::worker
