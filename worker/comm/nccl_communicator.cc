#include "worker/comm/nccl_communicator.h"

#include <charconv>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/clock.h"
#include "worker/comm/nccl_comm.h"
#include "worker/comm/nccl_library.h"

namespace facet::worker {
namespace {

constexpr absl::Duration kPoll = absl::Microseconds(50);
// How long the stream is given to end what a leaving or faulty group had enqueued.
constexpr absl::Duration kDrain = absl::Milliseconds(500);
// Beyond the silence after which a rank counts as lost: for the hub's word about it to arrive.
constexpr absl::Duration kVerdict = absl::Milliseconds(400);

// What a rank brings to the rendezvous: its version of NCCL and, from rank 0, the group's id.
struct NcclAddress {
  int version = 0;
  std::string id;

  std::string Encode() const { return StrCat(version, " ", id); }

  static NcclAddress Decode(const std::string& text) {
    NcclAddress address;
    const size_t space = text.find(' ');
    if (space == std::string::npos) return address;
    std::from_chars(text.data(), text.data() + space, address.version);
    address.id = text.substr(space + 1);
    return address;
  }
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const NcclOptions& options, const NcclLibrary& library)
      : Communicator(options.control.rank, options.control.num_ranks),
        library_(library),
        stream_(*options.stream),
        await_(options.await),
        verdict_timeout_(absl::Milliseconds(options.control.silence_ms) + kVerdict) {}

  ~NcclCommunicator() override {
    const bool whole = control_ != nullptr && control_->status().ok();
    if (!whole || !DrainStream()) Stop();
    // Before the goodbye, so that nobody is stopped with our blocks on their way.
    TakeComm().reset();
    control_.reset();  // From here on nobody calls OnFault.
    if (stopper_.joinable()) stopper_.join();
  }

  Status Form(const NcclOptions& options, absl::Duration timeout) {
    NcclAddress mine = {.version = library_.version()};
    if (rank() == 0) {
      FACET_ASSIGN_OR_RETURN(mine.id, NcclComm::UniqueId(library_));
    }
    FACET_ASSIGN_OR_RETURN(control_, GroupControl::Join(options.control, mine.Encode(), timeout,
                                                        [this] { OnFault(); }));
    set_epoch(control_->epoch());
    for (int32_t peer = 0; peer < num_ranks(); ++peer) {
      const int version = NcclAddress::Decode(control_->addresses()[peer]).version;
      if (version == library_.version()) continue;
      return control_->End(FaultKind::kAborted, peer,
                           StrCat("has NCCL ", NcclLibrary::NameOfVersion(version), "; rank ",
                                  rank(), " has ", NcclLibrary::NameOfVersion(library_.version())));
    }
    const std::string id = NcclAddress::Decode(control_->addresses()[0]).id;
    const int64_t deadline_ns = DeadlineAfter(options.init_timeout);
    auto comm = NcclComm::Begin(library_, id, rank(), num_ranks());
    if (!comm.ok()) return Fail(comm.status(), "NCCL's group");
    {
      absl::MutexLock lock(&mutex_);
      comm_ = *std::move(comm);
      if (ended_) comm_->Stop();
    }
    FACET_RETURN_IF_ERROR(WaitFor("NCCL's group", deadline_ns, [] { return true; }));
    return control_->AwaitConnected(absl::Nanoseconds(deadline_ns - Clock::Real().NowNs()));
  }

  bool called() const override { return control_->called(); }

  Status status() override { return control_->status(); }

  void SetListener(std::function<void()> listener) override {
    control_->SetListener(std::move(listener));
  }

  Status Synchronize(absl::Duration timeout) override {
    return WaitForStream("the stream", DeadlineAfter(timeout));
  }

 private:
  StatusOr<StepHeader> DoAgree(const StepWish& wish, absl::Duration timeout) override {
    return control_->Agree(wish, timeout);
  }

  Status Start(const Transfer& transfer) override {
    FACET_RETURN_IF_ERROR(control_->status());
    const Status status =
        transfer.verb == TransferVerb::kAllGather
            ? comm_->AllGather(transfer.send, transfer.recv, transfer.block_bytes, stream_.handle())
            : comm_->AllToAll(transfer.send, transfer.recv, transfer.block_bytes, stream_.handle());
    return status.ok() ? status : Fail(status, NameOf(transfer));
  }

  Status Finish(const Transfer& transfer, absl::Duration timeout) override {
    const std::string name = NameOf(transfer);
    const int64_t deadline_ns = DeadlineAfter(timeout);
    if (await_ == NcclAwait::kHost) return WaitForStream(name, deadline_ns);
    return WaitFor(name, deadline_ns, [] { return true; });
  }

  Status WaitForStream(const std::string& what, int64_t deadline_ns) {
    return WaitFor(what, deadline_ns, [this] { return stream_.Idle(); });
  }

  // Until NCCL has ended its part and done() is true, or the group ends: at the deadline, if not
  // before. Memory of transfers is then no longer written, if the device still does what it is
  // told.
  Status WaitFor(const std::string& what, int64_t deadline_ns, const std::function<bool()>& done) {
    while (true) {
      if (Status status = control_->status(); !status.ok()) {
        DrainStream();
        return status;
      }
      const auto state = comm_->Progress();
      if (!state.ok()) return Fail(state.status(), what);
      if (*state == NcclComm::State::kDone) {
        if (done()) return control_->status();
      }
      if (Clock::Real().NowNs() > deadline_ns) {
        Status status = control_->End(
            FaultKind::kDeadline, rank(),
            StrCat(what, " is not complete at its deadline; NCCL does not say for whom it waits"));
        DrainStream();
        return status;
      }
      absl::SleepFor(kPoll);
    }
  }

  // NCCL failed. Perhaps because another rank did: then the group's word comes soon
  // and says which.
  Status Fail(const Status& status, const std::string& what) {
    const int64_t deadline_ns = DeadlineAfter(verdict_timeout_);
    while (control_->status().ok() && Clock::Real().NowNs() < deadline_ns) absl::SleepFor(kPoll);
    Status end =
        control_->End(FaultKind::kLost, rank(), StrCat(what, " failed: ", MessageOf(status)));
    DrainStream();
    return end;
  }

  // Whether the stream has run what was enqueued, waiting for at most kDrain.
  bool DrainStream() const {
    const int64_t deadline_ns = DeadlineAfter(kDrain);
    while (true) {
      if (stream_.Idle()) return true;
      if (Clock::Real().NowNs() > deadline_ns) return false;
      absl::SleepFor(kPoll);
    }
  }

  // On the control thread, which has others to tell while NCCL takes its time.
  void OnFault() {
    stopper_ = std::thread([this] { Stop(); });
  }

  void Stop() {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    if (comm_ != nullptr) comm_->Stop();
  }

  std::unique_ptr<NcclComm> TakeComm() {
    absl::MutexLock lock(&mutex_);
    return std::move(comm_);
  }

  void EndGroup(std::string_view reason) override {
    control_->Report(FaultKind::kAborted, rank(), std::string(reason));
  }

  static int64_t DeadlineAfter(absl::Duration timeout) {
    return Clock::Real().NowNs() + absl::ToInt64Nanoseconds(timeout);
  }

  const NcclLibrary library_;
  const kernels::DeviceStream& stream_;
  const NcclAwait await_;
  const absl::Duration verdict_timeout_;
  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<NcclComm> comm_;  // Set and taken by the calling thread under the mutex.
  std::thread stopper_;
  std::unique_ptr<GroupControl> control_;
};

}  // namespace

StatusOr<std::unique_ptr<Communicator>> FormNccl(const NcclOptions& options,
                                                 absl::Duration timeout) {
  FACET_CHECK(options.stream != nullptr);
  options.stream->MakeCurrent();
  FACET_ASSIGN_OR_RETURN(const NcclLibrary library, NcclLibrary::Open(options.library));
  auto communicator = std::make_unique<NcclCommunicator>(options, library);
  FACET_RETURN_IF_ERROR(communicator->Form(options, timeout));
  return communicator;
}

}  // namespace facet::worker
