#include "worker/comm/gloo_communicator.h"

#include <gloo/transport/context.h>
#include <gloo/transport/pair.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <exception>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

namespace facet::worker {
namespace {

using gloo::transport::UnboundBuffer;

// Gloo's own limit on a wait, which closes all connections, is never to come first: ours is
// GroupControl::Watch, whose error names the rank.
constexpr std::chrono::milliseconds kNever = std::chrono::hours(24);

// Verb, number and size in the 64 bits by which gloo matches sends and receives. Sizes are below
// 2^38 bytes; numbers of transfers in flight differ by less than 2^24.
uint64_t TagOf(const Transfer& transfer) {
  return static_cast<uint64_t>(transfer.block_bytes) << 26U |
         (static_cast<uint64_t>(transfer.number) & 0xFFFFFFU) << 2U |
         static_cast<uint64_t>(transfer.verb);
}

class GlooCommunicator : public Communicator {
 public:
  explicit GlooCommunicator(const GlooOptions& options)
      : Communicator(options.control.rank, options.control.num_ranks) {}

  ~GlooCommunicator() override {
    DropBuffers();
    control_.reset();  // Says goodbye; from here on nobody calls OnFault.
    // The connections close as gloo's objects go: unlike ClosePairs, that lets the others read what
    // is still on its way to them.
  }

  // Throws what gloo throws, or returns what the group control says.
  Status Form(const GlooOptions& options, absl::Duration timeout) {
    const int64_t deadline_ns = Clock::Real().NowNs() + absl::ToInt64Nanoseconds(timeout);
    gloo::transport::tcp::attr attr;
    attr.hostname = options.data_host;
    device_ = gloo::transport::tcp::CreateDevice(attr);
    context_ = device_->createContext(rank(), num_ranks());
    // Gloo waits for a connection five times as long as it is told.
    context_->setTimeout(absl::ToChronoMilliseconds(timeout) / 5 + std::chrono::milliseconds(1));
    std::string addresses;  // Of equal length: for each rank, where it finds our end of the pair.
    for (int32_t peer = 0; peer < num_ranks(); ++peer) {
      if (peer == rank()) {
        addresses.append(kAddressBytes, '\0');
        continue;
      }
      std::vector<char> address = context_->createPair(peer)->address().bytes();
      FACET_CHECK_LE(address.size(), kAddressBytes);
      address.resize(kAddressBytes);
      addresses.append(address.data(), address.size());
    }
    FACET_ASSIGN_OR_RETURN(control_, GroupControl::Join(options.control, std::move(addresses),
                                                        timeout, [this] { OnFault(); }));
    set_epoch(control_->epoch());
    return Connect(deadline_ns);
  }

  bool called() const override { return control_->called(); }

  Status status() override { return control_->status(); }

  void SetListener(std::function<void()> listener) override {
    control_->SetListener(std::move(listener));
  }

 private:
  static constexpr size_t kAddressBytes = gloo::transport::Address::kMaxByteSize;

  Status Connect(int64_t deadline_ns) {
    for (int32_t peer = 0; peer < num_ranks(); ++peer) {
      if (peer == rank()) continue;
      const std::string& addresses = control_->addresses()[peer];
      if (addresses.size() != kAddressBytes * num_ranks()) {
        return control_->End(FaultKind::kAborted, peer, "sent no addresses of its data sockets");
      }
      const char* mine = addresses.data() + rank() * kAddressBytes;
      control_->Watch(peer, deadline_ns, "no data connection at the deadline");
      try {
        context_->getPair(peer)->connect(AddressOf(mine));
      } catch (const std::exception& error) {
        return control_->End(FaultKind::kLost, peer, StrCat("no data connection: ", error.what()));
      }
      FACET_RETURN_IF_ERROR(control_->status());
    }
    control_->Unwatch();
    connected_ = true;
    return control_->AwaitConnected(absl::Nanoseconds(deadline_ns - Clock::Real().NowNs()));
  }

  // As gloo wrote it: its parser checks the size.
  std::vector<char> AddressOf(const char* bytes) const {
    const size_t length = context_->getPair(rank() == 0 ? 1 : 0)->address().bytes().size();
    return {bytes, bytes + length};
  }

  Status Start(const Transfer& transfer) override {
    FACET_RETURN_IF_ERROR(control_->status());
    std::memcpy(transfer.RecvBlock(rank()), transfer.SendBlock(rank()), transfer.block_bytes);
    for (int32_t step = 1; step < num_ranks(); ++step) {  // Each rank starts with another one.
      const int32_t to = (rank() + step) % num_ranks();
      const int32_t from = (rank() + num_ranks() - step) % num_ranks();
      int32_t peer = from;
      try {
        AddBuffer(from, transfer.RecvBlock(from), transfer)->recv(from, TagOf(transfer));
        peer = to;
        // Gloo has one type for both ways; it does not write what it sends.
        auto* block = const_cast<std::byte*>(transfer.SendBlock(to));
        AddBuffer(to, block, transfer, Way::kSend)->send(to, TagOf(transfer));
      } catch (const std::exception& error) {
        return Fail(peer, transfer, error);
      }
    }
    return absl::OkStatus();
  }

  Status Finish(const Transfer& transfer, absl::Duration timeout) override {
    const int64_t deadline_ns = Clock::Real().NowNs() + absl::ToInt64Nanoseconds(timeout);
    for (size_t i = 0; i < buffers_.size(); ++i) {
      const InFlight& in_flight = buffers_[i];
      control_->Watch(
          in_flight.peer, deadline_ns,
          StrCat("not there for ", NameOf(transfer), " at rank ", rank(), "'s deadline"));
      try {
        const bool woken = in_flight.way == Way::kSend ? !in_flight.buffer->waitSend(kNever)
                                                       : !in_flight.buffer->waitRecv(kNever);
        if (woken) break;
      } catch (const std::exception& error) {
        return Fail(in_flight.peer, transfer, error);
      }
    }
    control_->Unwatch();
    Status status = control_->status();
    DropBuffers();
    if (!status.ok()) ClosePairs();
    return status;
  }

  StatusOr<StepHeader> DoAgree(const StepWish& wish, absl::Duration timeout) override {
    return control_->Agree(wish, timeout);
  }

  // A connection broke. Why is the group's word: perhaps the peer closed it because of another.
  Status Fail(int32_t peer, const Transfer& transfer, const std::exception& error) {
    Status status =
        control_->End(FaultKind::kLost, peer,
                      StrCat("connection lost in ", NameOf(transfer), ": ", error.what()));
    control_->Unwatch();
    DropBuffers();
    ClosePairs();
    return status;
  }

  enum class Way { kSend, kReceive };

  UnboundBuffer* AddBuffer(int32_t peer,
                           std::byte* block,
                           const Transfer& transfer,
                           Way way = Way::kReceive) {
    auto buffer = context_->createUnboundBuffer(block, transfer.block_bytes);
    UnboundBuffer* raw = buffer.get();
    absl::MutexLock lock(&mutex_);
    buffers_.push_back({peer, way, std::move(buffer)});
    if (ended_) Wake(buffers_.back());
    return raw;
  }

  // The memory is the caller's again afterwards: gloo waits for its own use of a buffer.
  void DropBuffers() {
    absl::MutexLock lock(&mutex_);
    buffers_.clear();
  }

  // On the control thread: wakes the caller wherever it waits for gloo. Nothing but closing it
  // wakes one that connects.
  void OnFault() {
    {
      absl::MutexLock lock(&mutex_);
      ended_ = true;
      for (const InFlight& in_flight : buffers_) Wake(in_flight);
    }
    if (!connected_) ClosePairs();
  }

  void EndGroup(std::string_view reason) override {
    control_->Report(FaultKind::kAborted, rank(), std::string(reason));
  }

  struct InFlight {
    int32_t peer = 0;
    Way way = Way::kReceive;
    std::unique_ptr<UnboundBuffer> buffer;
  };

  static void Wake(const InFlight& in_flight) {
    in_flight.way == Way::kSend ? in_flight.buffer->abortWaitSend()
                                : in_flight.buffer->abortWaitRecv();
  }

  void ClosePairs() {
    if (context_ == nullptr) return;
    for (int32_t peer = 0; peer < num_ranks(); ++peer) {
      if (peer == rank()) continue;
      try {
        if (auto& pair = context_->getPair(peer); pair != nullptr) pair->close();
      } catch (const std::exception& error) {
        Log(kWarning, "closing a data connection failed", {{"reason", error.what()}});
      }
    }
  }

  std::shared_ptr<gloo::transport::Device> device_;
  std::shared_ptr<gloo::transport::Context> context_;
  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<InFlight> buffers_;  // Changed by the calling thread under the mutex, read by both.
  std::atomic<bool> connected_ = false;
  std::unique_ptr<GroupControl> control_;
};

}  // namespace

StatusOr<std::unique_ptr<Communicator>> FormGloo(const GlooOptions& options,
                                                 absl::Duration timeout) {
  std::signal(SIGPIPE, SIG_IGN);  // Gloo writes to sockets in a way that raises it.
  try {
    auto communicator = std::make_unique<GlooCommunicator>(options);
    FACET_RETURN_IF_ERROR(communicator->Form(options, timeout));
    return communicator;
  } catch (const std::exception& error) {
    return Unavailable("rank ", options.control.rank, ", data_host '", options.data_host,
                       "': ", error.what());
  }
}

}  // namespace facet::worker
