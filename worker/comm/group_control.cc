#include "worker/comm/group_control.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "base/clock.h"

namespace facet::worker {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kRetryNs = 50 * kNsPerMs;

StatusOr<tcp::endpoint> Resolve(asio::io_context& io, const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return InvalidArgument("rendezvous_address is '", address, "'; it must be host:port");
  }
  error_code error;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(address.substr(0, colon), address.substr(colon + 1), error);
  if (error || found.empty()) {
    return InvalidArgument("rendezvous_address '", address, "': ", error.message());
  }
  return found.begin()->endpoint();
}

}  // namespace

StatusOr<std::unique_ptr<GroupControl>> GroupControl::Join(const Options& options,
                                                           std::string addresses,
                                                           absl::Duration timeout,
                                                           std::function<void()> on_fault) {
  if (options.num_ranks < 1 || options.num_ranks > kGroupRanksMax) {
    return InvalidArgument("num_ranks is ", options.num_ranks, "; from 1 to ", kGroupRanksMax,
                           " may be");
  }
  if (options.rank < 0 || options.rank >= options.num_ranks) {
    return InvalidArgument("rank is ", options.rank, "; it must be below ", options.num_ranks);
  }
  if (options.group_key.empty()) return InvalidArgument("group_key is empty");
  std::unique_ptr<GroupControl> control(
      new GroupControl(options, std::move(addresses), std::move(on_fault)));
  FACET_RETURN_IF_ERROR(control->Run(timeout));
  return control;
}

GroupControl::GroupControl(const Options& options,
                           std::string addresses,
                           std::function<void()> on_fault)
    : options_(options),
      my_addresses_(std::move(addresses)),
      on_fault_(std::move(on_fault)),
      tick_(io_) {}

GroupControl::~GroupControl() {
  if (!thread_.joinable()) return;
  leaving_ = true;  // For the next Tick.
  thread_.join();
}

Status GroupControl::status() {
  absl::MutexLock lock(&mutex_);
  if (reported_) {
    mutex_.Await(absl::Condition(
        +[](std::optional<GroupFault>* fault) { return fault->has_value(); }, &fault_));
  }
  return fault_ ? StatusOf(*fault_) : absl::OkStatus();
}

Status GroupControl::End(FaultKind kind, int32_t rank, std::string reason) {
  Report(kind, rank, std::move(reason));
  return status();
}

void GroupControl::Report(FaultKind kind, int32_t rank, std::string reason) {
  GroupFault fault = {
      .kind = kind, .rank = rank, .epoch = options_.epoch, .reason = std::move(reason)};
  {
    absl::MutexLock lock(&mutex_);
    if (reported_ || fault_) return;
    reported_ = fault;
  }
  asio::post(io_, [this, fault = std::move(fault)] { OnReport(fault); });
}

void GroupControl::Watch(int32_t rank, int64_t deadline_ns, const std::string& what) {
  absl::MutexLock lock(&mutex_);
  watched_ = {.rank = rank, .deadline_ns = deadline_ns, .what = what};
}

void GroupControl::Unwatch() {
  absl::MutexLock lock(&mutex_);
  watched_.reset();
}

Status GroupControl::Run(absl::Duration timeout) {
  FACET_ASSIGN_OR_RETURN(hub_address_, Resolve(io_, options_.rendezvous_address));
  if (options_.rank == 0) {
    hub_ = std::make_unique<GroupHub>(
        io_, GroupHub::Options{.num_ranks = options_.num_ranks,
                               .epoch = options_.epoch,
                               .group_key = options_.group_key,
                               .silence_ns = options_.silence_ms * kNsPerMs});
    FACET_RETURN_IF_ERROR(hub_->Listen(hub_address_));
  }
  last_tick_ns_ = Clock::Real().NowNs();
  Connect();
  ScheduleTick();
  thread_ = std::thread([this] { io_.run(); });

  absl::MutexLock lock(&mutex_);
  const auto settled = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return started_ || fault_.has_value() || !refused_.ok();
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&settled), timeout)) {
    mutex_.Unlock();
    // The hub knows who is absent.
    Status status = End(FaultKind::kDeadline, options_.rank,
                        StrCat("did not come to the rendezvous at ", options_.rendezvous_address,
                               " by rank ", options_.rank, "'s deadline"));
    mutex_.Lock();
    return status;
  }
  if (fault_) return StatusOf(*fault_);
  return refused_;
}

void GroupControl::Connect() {
  connecting_ = std::make_shared<tcp::socket>(io_);
  connecting_->async_connect(hub_address_, [this, socket = connecting_](const error_code& error) {
    if (leave_ns_ != 0 || !socket->is_open()) return;
    error_code ignored;
    // A port that nobody listens on can be the one that this socket was given: TCP then connects it
    // to itself.
    if (error || socket->local_endpoint(ignored) == socket->remote_endpoint(ignored)) {
      retry_ns_ = Clock::Real().NowNs() + kRetryNs;
      return;
    }
    heard_ns_ = awake_ns_;
    link_ = std::make_shared<ControlConnection>(std::move(*socket));
    link_->Start([this](ControlMessage&& message) { OnMessage(std::move(message)); },
                 [this](const std::string& reason) { OnClosed(reason); });
  });
}

void GroupControl::OnMessage(ControlMessage&& message) {
  heard_ns_ = awake_ns_;
  switch (message.type) {
    case ControlType::kChallenge:
      if (message.texts.size() == 1 && hub_nonce_.empty()) OnChallenge(message.texts[0]);
      return;
    case ControlType::kStart:
      OnStart(std::move(message));
      return;
    case ControlType::kRefused:
      link_->Close();
      OnRefused(message);
      return;
    case ControlType::kFault:
      link_->Close();
      Decide({.kind = message.kind,
              .rank = message.rank,
              .epoch = options_.epoch,
              .reason = message.texts.empty() ? "" : message.texts[0]});
      StopIfAlone();
      return;
    case ControlType::kLeave:
      if (message.rank != 0) return;
      link_->Close();
      hub_left_ = HasStarted();
      if (!hub_left_) OnClosed("rank 0 left");
      StopIfAlone();
      return;
    case ControlType::kHello:
    case ControlType::kHeartbeat:
      return;
  }
}

void GroupControl::OnChallenge(const std::string& hub_nonce) {
  hub_nonce_ = hub_nonce;
  hello_ = {.type = ControlType::kHello,
            .rank = options_.rank,
            .num_ranks = options_.num_ranks,
            .epoch = options_.epoch,
            .texts = {FreshNonce(), "", my_addresses_}};
  hello_.texts[1] = GroupProof(options_.group_key, ProofBy::kRank, hub_nonce_, hello_);
  link_->Send(hello_);
}

void GroupControl::OnRefused(const ControlMessage& message) {
  const bool knows_key = message.texts.size() == 2 && message.texts[0] != "key";
  if (knows_key && message.epoch < options_.epoch) {
    OnClosed("an older group is about to leave");  // Rank 0 comes with our epoch later.
    return;
  }
  const std::string text = StrCat("rendezvous at ", options_.rendezvous_address,
                                  " refused: ", message.texts.empty() ? "" : message.texts.back());
  Refuse(knows_key ? FailedPrecondition(text) : absl::PermissionDeniedError(text));
}

void GroupControl::OnStart(ControlMessage&& message) {
  if (hub_nonce_.empty() || message.texts.size() != options_.num_ranks + 1U ||
      !SameProof(message.texts[0],
                 GroupProof(options_.group_key, ProofBy::kHub, hub_nonce_, hello_))) {
    link_->Close();
    Refuse(absl::PermissionDeniedError(
        StrCat("rendezvous at ", options_.rendezvous_address, " does not know the group key")));
    return;
  }
  absl::MutexLock lock(&mutex_);
  addresses_.assign(message.texts.begin() + 1, message.texts.end());
  started_ = true;
}

void GroupControl::OnClosed(const std::string& reason) {
  if (leave_ns_ != 0) {
    StopIfAlone();
    return;
  }
  if (hub_left_) return;
  if (HasStarted()) {
    Decide({.kind = FaultKind::kLost,
            .rank = 0,
            .epoch = options_.epoch,
            .reason = "its control " + reason});
  } else {
    hub_nonce_.clear();
    retry_ns_ = Clock::Real().NowNs() + kRetryNs;
  }
}

void GroupControl::OnReport(GroupFault fault) {
  if (link_ == nullptr || !link_->open() || hub_nonce_.empty()) {
    if (!HasStarted()) fault.rank = 0;  // The rendezvous itself is absent.
    Decide(std::move(fault));
    return;
  }
  link_->Send({.type = ControlType::kFault,
               .kind = fault.kind,
               .rank = fault.rank,
               .epoch = fault.epoch,
               .texts = {fault.reason.substr(0, 1000)}});
  verdict_ns_ = Clock::Real().NowNs() + kVerdictNs;
}

void GroupControl::Refuse(Status status) {
  absl::MutexLock lock(&mutex_);
  if (!started_ && !fault_ && refused_.ok()) refused_ = std::move(status);
}

bool GroupControl::HasStarted() {
  absl::MutexLock lock(&mutex_);
  return started_;
}

void GroupControl::Decide(GroupFault fault) {
  bool started = false;
  {
    absl::MutexLock lock(&mutex_);
    if (fault_) return;
    fault_ = std::move(fault);
    started = started_;
  }
  verdict_ns_ = 0;
  if (started) on_fault_();
}

void GroupControl::ScheduleTick() {
  tick_.expires_after(std::chrono::milliseconds(kTickMs));
  tick_.async_wait([this](const error_code& error) {
    if (!error) Tick();
  });
}

void GroupControl::Tick() {
  const int64_t now_ns = Clock::Real().NowNs();
  const bool heartbeat_due = now_ns - heartbeat_ns_ >= options_.heartbeat_ms * kNsPerMs;
  if (heartbeat_due) heartbeat_ns_ = now_ns;
  // While this process stood still nobody could be heard, and perhaps the whole machine stood
  // still: such time is no silence.
  awake_ns_ += std::min(now_ns - last_tick_ns_, kTickNsMax);
  last_tick_ns_ = now_ns;
  if (hub_ != nullptr && leave_ns_ == 0) hub_->Tick(awake_ns_, heartbeat_due);
  TickLink(now_ns, heartbeat_due);
  if (leaving_ && leave_ns_ == 0) {
    asio::post(io_, [this] { Leave(); });  // Behind what was reported before.
  }
  StopIfAlone();
  ScheduleTick();
}

void GroupControl::TickLink(int64_t now_ns, bool heartbeat_due) {
  if (retry_ns_ != 0 && now_ns > retry_ns_ && leave_ns_ == 0) {
    retry_ns_ = 0;
    Connect();
  }
  std::optional<GroupFault> reported;
  std::optional<Watched> late;
  {
    absl::MutexLock lock(&mutex_);
    if (fault_) return;
    reported = reported_;
    if (watched_ && now_ns > watched_->deadline_ns) late = watched_;
  }
  if (late) Report(FaultKind::kDeadline, late->rank, late->what);
  if (verdict_ns_ != 0 && now_ns > verdict_ns_) {
    Decide(*reported);
    return;
  }
  // The first that the hub hears is to be our Hello.
  if (link_ == nullptr || !link_->open() || hub_nonce_.empty()) return;
  if (heartbeat_due) link_->Send({.type = ControlType::kHeartbeat});
  const int64_t silent_ns = awake_ns_ - heard_ns_;
  if (silent_ns > options_.silence_ms * kNsPerMs && leave_ns_ == 0) {
    link_->Close();
    Decide({.kind = FaultKind::kLost,
            .rank = 0,
            .epoch = options_.epoch,
            .reason = StrCat("silent for ", silent_ns / kNsPerMs, " ms")});
  }
}

void GroupControl::Leave() {
  leave_ns_ = Clock::Real().NowNs() + kLeaveNs;
  if (connecting_ != nullptr && link_ == nullptr) {
    error_code ignored;
    connecting_->close(ignored);
  }
  if (hub_ != nullptr) {
    hub_->Leave();
  } else if (link_ != nullptr) {
    link_->Send({.type = ControlType::kLeave, .rank = options_.rank});
  }
  StopIfAlone();
}

void GroupControl::StopIfAlone() {
  if (leave_ns_ == 0) return;
  const bool alone =
      (link_ == nullptr || !link_->open()) && (hub_ == nullptr || !hub_->has_connections());
  if (alone || Clock::Real().NowNs() > leave_ns_) io_.stop();
}

}  // namespace facet::worker
