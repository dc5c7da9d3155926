#include "worker/comm/group_control.h"

#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "base/check.h"

namespace facet::worker {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr int64_t kNsPerMs = 1'000'000;

StatusOr<tcp::endpoint> Resolve(asio::io_context& io, const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return InvalidArgument("rendezvous_address is '", address, "'; it must be host:port");
  }
  error_code error;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(address.substr(0, colon), address.substr(colon + 1), error);
  if (error || found.empty()) {
    // A cluster's names come and go with its pods, so it may well be found the next time.
    return Unavailable("rendezvous_address '", address, "': ", error.message());
  }
  return found.begin()->endpoint();
}

Status Check(const GroupControl::Options& options) {
  if (options.num_ranks < 1 || options.num_ranks > kGroupRanksMax) {
    return InvalidArgument("num_ranks is ", options.num_ranks, "; from 1 to ", kGroupRanksMax,
                           " may be");
  }
  if (options.rank >= options.num_ranks) {
    return InvalidArgument("rank is ", options.rank, "; it must be below ", options.num_ranks);
  }
  if (options.group_key.empty()) return InvalidArgument("group_key is empty");
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<GroupControl>> GroupControl::Join(const Options& options,
                                                           std::string addresses,
                                                           absl::Duration timeout,
                                                           std::function<void()> on_fault) {
  FACET_RETURN_IF_ERROR(Check(options));
  if (options.rank < 0) return InvalidArgument("rank is ", options.rank, "; the least is 0");
  std::unique_ptr<GroupControl> control(
      new GroupControl(options, std::move(addresses), std::move(on_fault)));
  if (options.rank == 0) FACET_RETURN_IF_ERROR(control->Listen());
  FACET_RETURN_IF_ERROR(control->Run(timeout));
  return control;
}

StatusOr<int32_t> GroupControl::AwaitAssignment(const Options& options, absl::Duration timeout) {
  Options spare = options;
  spare.rank = kSpareRank;
  FACET_RETURN_IF_ERROR(Check(spare));
  GroupControl control(spare, "", [] {});
  FACET_RETURN_IF_ERROR(control.Run(timeout));
  absl::MutexLock lock(&control.mutex_);
  FACET_CHECK(control.assigned_.has_value());
  return *control.assigned_;
}

GroupControl::GroupControl(const Options& options,
                           std::string addresses,
                           std::function<void()> on_fault)
    : options_(options),
      on_fault_(std::move(on_fault)),
      tick_(io_),
      member_({.rank = options.rank,
               .num_ranks = options.num_ranks,
               .epoch_min = options.epoch_min,
               .rendezvous_address = options.rendezvous_address,
               .group_key = options.group_key,
               .addresses = std::move(addresses),
               .heartbeat_ns = options.heartbeat_ms * kNsPerMs,
               .silence_ns = options.silence_ms * kNsPerMs},
              *this) {}

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

StatusOr<StepHeader> GroupControl::Agree(const StepWish& wish, absl::Duration timeout) {
  FACET_CHECK_GE(next_step_, 0) << "Agree before AwaitConnected";
  return AwaitStep(wish, timeout, StrCat("not ready for step ", next_step_));
}

Status GroupControl::AwaitConnected(absl::Duration timeout) {
  FACET_CHECK_EQ(next_step_, kConnectedStep);
  return AwaitStep({}, timeout, "without all data connections").status();
}

StatusOr<StepHeader> GroupControl::AwaitStep(const StepWish& wish,
                                             absl::Duration timeout,
                                             const std::string& what) {
  const int64_t step = next_step_++;
  asio::post(io_, [this, wish] {
    member_.Ready(wish);
    Publish();
  });
  absl::ReleasableMutexLock lock(&mutex_);
  const auto settled = [this, step]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return fault_.has_value() || reported_ || (header_ && header_->step == step);
  };
  mutex_.AwaitWithTimeout(absl::Condition(&settled), timeout);
  if (header_ && header_->step == step) return *header_;  // What ended the group came after it.
  lock.Release();
  return End(FaultKind::kDeadline, kWhoeverIsMissing,
             StrCat(what, " at rank ", options_.rank, "'s deadline"));
}

Status GroupControl::End(FaultKind kind, int32_t rank, std::string reason) {
  Report(kind, rank, std::move(reason));
  return status();
}

void GroupControl::Report(FaultKind kind, int32_t rank, std::string reason) {
  {
    absl::MutexLock lock(&mutex_);
    if (reported_ || fault_) return;
    reported_ = true;
  }
  asio::post(io_,
             [this, fault = GroupFault{.kind = kind, .rank = rank, .reason = std::move(reason)}] {
               member_.Report(fault);
               Publish();
             });
}

void GroupControl::Watch(int32_t rank, int64_t deadline_ns, const std::string& what) {
  absl::MutexLock lock(&mutex_);
  watched_ = {.rank = rank, .deadline_ns = deadline_ns, .what = what};
}

void GroupControl::Unwatch() {
  absl::MutexLock lock(&mutex_);
  watched_.reset();
}

Status GroupControl::Listen() {
  FACET_ASSIGN_OR_RETURN(hub_address_, Resolve(io_, options_.rendezvous_address));
  server_ = std::make_unique<RendezvousServer>(
      io_, GroupHub::Options{.num_ranks = options_.num_ranks,
                             .group_key = options_.group_key,
                             .heartbeat_ns = options_.heartbeat_ms * kNsPerMs,
                             .silence_ns = options_.silence_ms * kNsPerMs,
                             .spare_after_ns = options_.spare_after_ms * kNsPerMs,
                             .assign_ns = options_.assign_ms * kNsPerMs});
  return server_->Listen(hub_address_);
}

Status GroupControl::Run(absl::Duration timeout) {
  FACET_ASSIGN_OR_RETURN(hub_address_, Resolve(io_, options_.rendezvous_address));
  asio::post(io_, [this] { Tick(); });
  thread_ = std::thread([this] { io_.run(); });

  absl::MutexLock lock(&mutex_);
  const auto settled = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return started_ || assigned_ || fault_ || !refused_.ok();
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&settled), timeout)) {
    mutex_.Unlock();
    Status status =
        options_.rank == kSpareRank
            ? absl::DeadlineExceededError(
                  StrCat("no rank was wanted at ", options_.rendezvous_address))
            : End(FaultKind::kDeadline, kWhoeverIsMissing,
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
    if (!socket->is_open()) return;
    error_code ignored;
    if (error) {
      member_.OnClosed(error.message());
    } else if (socket->local_endpoint(ignored) == socket->remote_endpoint(ignored)) {
      // A port that nobody listens on can be the one that this socket was given: TCP then connects
      // it to itself.
      member_.OnClosed("nobody listens");
    } else {
      link_ = std::make_shared<ControlConnection>(std::move(*socket));
      member_.OnConnected();
      link_->Start(
          [this](ControlMessage&& message) {
            member_.OnMessage(std::move(message));
            Publish();
          },
          [this](const std::string& reason) {
            member_.OnClosed(reason);
            Publish();
          });
    }
  });
}

void GroupControl::Send(const ControlMessage& message) { link_->Send(message); }

void GroupControl::Close() {
  error_code ignored;
  connecting_->close(ignored);
  if (link_ != nullptr) link_->Close();
}

void GroupControl::ScheduleTick() {
  tick_.expires_after(std::chrono::milliseconds(kTickMs));
  tick_.async_wait([this](const error_code& error) {
    if (!error) Tick();
  });
}

void GroupControl::Tick() {
  const int64_t now_ns = Clock::Real().NowNs();
  if (server_ != nullptr && leave_ns_ == 0) server_->hub().Tick(now_ns);
  member_.Tick(now_ns);
  CheckWatched(now_ns);
  Publish();
  if (leaving_ && leave_ns_ == 0) {
    asio::post(io_, [this] { Leave(); });  // Behind what was reported before.
  }
  StopIfAlone();
  ScheduleTick();
}

void GroupControl::CheckWatched(int64_t now_ns) {
  std::optional<Watched> late;
  {
    absl::MutexLock lock(&mutex_);
    if (watched_ && now_ns > watched_->deadline_ns) late = watched_;
  }
  if (late) Report(FaultKind::kDeadline, late->rank, late->what);
}

void GroupControl::Publish() {
  bool changed = member_.called() && !called_;
  called_ = member_.called();
  bool ended = false;
  {
    absl::MutexLock lock(&mutex_);
    ended = member_.fault() && !fault_;
    if (member_.started() && !started_) {
      started_ = true;
      epoch_ = member_.epoch();
      addresses_ = member_.addresses();
    }
    if (ended) fault_ = member_.fault();
    if (refused_.ok()) refused_ = member_.refused();
    assigned_ = member_.assigned();
    if (member_.header() && (!header_ || header_->step != member_.header()->step)) {
      header_ = member_.header();
    }
  }
  if (ended && member_.started()) on_fault_();
  if (changed || ended) listener_.Call();
  if (leave_ns_ != 0) StopIfAlone();
}

void GroupControl::Leave() {
  leave_ns_ = Clock::Real().NowNs() + kLeaveNs;
  if (server_ != nullptr) server_->StopListening();
  // Rank 0's goodbye reaches its hub behind what it reported, and the hub tells the others.
  if (server_ != nullptr && !member_.connected()) server_->hub().Leave();
  member_.Leave();
  StopIfAlone();
}

void GroupControl::StopIfAlone() {
  if (leave_ns_ == 0) return;
  const bool alone =
      !member_.connected() && (server_ == nullptr || !server_->hub().has_connections());
  if (alone || Clock::Real().NowNs() > leave_ns_) io_.stop();
}

}  // namespace facet::worker
