#include "tests/sim/sim_process.h"

#include <bit>
#include <utility>

#include "tests/sim/sim_world.h"

namespace facet::sim {

using worker::FaultKind;
using worker::GroupHub;
using worker::GroupMember;
using worker::StepHeader;

namespace {

constexpr int64_t kTickNs = 20 * kNsPerMs;
constexpr int64_t kLeaveNs = 200 * kNsPerMs;

}  // namespace

Process::Process(World& world, int32_t host, int32_t rank)
    : world_(world), host_(host), rank_(rank), disturbed_ns_(world.now_ns()) {
  epoch_min_ = world_.FirstEpochMin();
  Later(0, 19, [this] {
    ScheduleTick();
    Come();
  });
}

Process::~Process() = default;

void Process::Deliver(std::function<void()> run) {
  if (!alive_) return;
  if (stopped_) {
    missed_.push_back(std::move(run));
    return;
  }
  run();
  Look();
}

void Process::Stop() {
  stopped_ = true;
  disturbed_ns_ = world_.now_ns();
}

void Process::Continue() {
  if (!alive_ || !stopped_) return;
  stopped_ = false;
  disturbed_ns_ = world_.now_ns();
  // All at once, in the order in which it came; an overdue tick is among it.
  for (std::function<void()>& run : std::exchange(missed_, {})) Deliver(std::move(run));
}

void Process::Kill() {
  world_.CloseAllOf(*this);
  alive_ = false;
  listening_ = false;
}

void Process::AddWork(int64_t num_steps) {
  Deliver([this, num_steps] { work_ += num_steps; });
}

void Process::Drain() {
  Deliver([this] { leaving_ = state_ == State::kRunning; });
}

std::string Process::Describe() const {
  return StrCat("host ", host_, " rank ", rank_, " state ", static_cast<int>(state_), " group ",
                group_, " step ", step_, alive_ ? "" : " dead", stopped_ ? " stopped" : "");
}

void Process::Connect() {
  link_ = world_.NewConnection(*this);
  world_.SendSyn(link_);
}

void Process::Send(const worker::ControlMessage& message) { world_.SendToHub(link_, message); }

void Process::Close() { world_.CloseByClient(link_, "connection closed"); }

void Process::Send(int64_t connection, const worker::ControlMessage& message) {
  world_.SendToMember(world_.connection(connection), message);
}

void Process::Close(int64_t connection) {
  world_.CloseByServer(world_.connection(connection), "connection closed");
}

void Process::Come() {
  state_ = State::kComing;
  if (rank_ == 0) {
    hub_ = std::make_unique<GroupHub>(world_.hub_options(), *this);
    hub_number_ = world_.NextHub();
    listening_ = true;
  }
  member_ = std::make_unique<GroupMember>(world_.member_options(rank_, epoch_min_), *this);
  join_deadline_ns_ = world_.now_ns() + world_.random().Between(4'000, 10'000) * kNsPerMs;
  leaving_ = agreeing_ = stepping_ = false;
  member_->Tick(world_.now_ns());
}

void Process::ScheduleTick() {
  world_.events().After(kTickNs, [this] { Deliver([this] { Tick(); }); });
}

void Process::Tick() {
  ScheduleTick();
  if (member_ == nullptr) return;
  if (hub_ != nullptr && state_ != State::kLeaving) hub_->Tick(world_.now_ns());
  member_->Tick(world_.now_ns());
  CheckDeadlines();
}

void Process::CheckDeadlines() {
  const int64_t now_ns = world_.now_ns();
  if (state_ == State::kComing && rank_ >= 0 && now_ns > join_deadline_ns_) {
    Report(FaultKind::kDeadline, -1);
  }
  if (state_ != State::kRunning || now_ns <= step_deadline_ns_) return;
  if (agreeing_) Report(FaultKind::kDeadline, -1);
  if (!stepping_) return;
  const uint64_t missing = ~data_[step_] & world_.all_ranks();
  if (missing != 0) Report(FaultKind::kDeadline, std::countr_zero(missing));
}

void Process::Report(FaultKind kind, int32_t rank) {
  member_->Report({.kind = kind, .rank = rank, .reason = "deadline of the simulation"});
}

void Process::Look() {
  switch (state_) {
    case State::kComing:
      return LookWhileComing();
    case State::kRunning:
      return LookAtStep();
    case State::kDrained:
      if (member_->fault()) world_.OnFault(*member_->fault());
      return;
    case State::kLeaving:
      return FinishLeaving();
    case State::kLoading:
      return;
  }
}

void Process::LookWhileComing() {
  if (!member_->refused().ok()) {  // Another process has this rank: perhaps there is another use.
    ++world_.totals().num_refused;
    rank_ = worker::kSpareRank;
    LeaveThen([this] { Come(); });
  } else if (member_->assigned()) {
    ++world_.totals().num_assigned;
    rank_ = *member_->assigned();
    LeaveThen([this] { Later(50, 500, [this] { Come(); }); });
  } else if (member_->started()) {
    Start();
  } else if (member_->fault()) {
    world_.OnFault(*member_->fault());
    LeaveThen([this] { Come(); });
  }
}

void Process::Start() {
  state_ = State::kRunning;
  epoch_min_ = member_->epoch() + 1;
  group_ = world_.OnStarted(*this, link_->hub, member_->epoch());
  step_ = worker::kConnectedStep;
  data_.clear();
  LookAtStep();
}

void Process::LookAtStep() {
  const auto& header = member_->header();
  if (agreeing_ && header && header->step == step_) {
    agreeing_ = false;
    if (step_ != worker::kConnectedStep) return BeginStep();
    step_ = 0;
  }
  if (member_->fault()) {
    world_.OnFault(*member_->fault());
    work_ = 0;
    LeaveThen([this] { Later(0, 50, [this] { Come(); }); });
    return;
  }
  if (agreeing_ || stepping_ || !WantsStep()) return;
  agreeing_ = true;
  step_deadline_ns_ = world_.now_ns() + world_.random().Between(1'500, 3'000) * kNsPerMs;
  if (step_ == worker::kConnectedStep) return member_->Ready({});
  member_->Ready({.num_tokens = static_cast<int32_t>(work_), .leaving = leaving_});
}

bool Process::WantsStep() const {
  return step_ == worker::kConnectedStep || work_ > 0 || leaving_ || member_->called();
}

void Process::BeginStep() {
  const StepHeader& header = *member_->header();
  world_.OnHeader(group_, member_->epoch(), header);
  stepping_ = true;
  computed_ = false;
  const int64_t step = step_;
  for (int32_t to = 0; to < world_.num_ranks(); ++to) {
    world_.SendData(*this, to,
                    [this, group = group_, epoch = member_->epoch(), step, from = rank_](
                        Process& receiver) { receiver.OnData(group, epoch, step, from); });
  }
  Later(1, 30, [this, group = group_, step] {
    if (group != group_ || step != step_ || !stepping_) return;
    computed_ = true;
    CompleteStep();
  });
}

void Process::OnData(int64_t group, int64_t epoch, int64_t step, int32_t from) {
  // Data connections belong to an epoch.
  if (state_ != State::kRunning || epoch != member_->epoch()) return;
  if (group != group_) world_.Fail(StrCat("data of group ", group, " in group ", group_));
  data_[step] |= uint64_t{1} << static_cast<uint32_t>(from);
  CompleteStep();
}

void Process::CompleteStep() {
  if (!stepping_ || !computed_ || data_[step_] != world_.all_ranks()) return;
  stepping_ = false;
  data_.erase(step_);
  world_.SendFrame(*this,
                   {.group = group_, .epoch = member_->epoch(), .step = step_, .rank = rank_});
  ++step_;
  if (work_ > 0) --work_;
  if (!member_->header()->all_leaving()) return;
  if (rank_ == 0) ++world_.totals().num_drained;
  state_ = State::kDrained;
  Later(0, 100, [this] {
    if (state_ != State::kDrained) return;
    LeaveThen([this] { Later(50, 300, [this] { Come(); }); });
  });
}

void Process::LeaveThen(std::function<void()> next) {
  state_ = State::kLeaving;
  agreeing_ = stepping_ = false;
  leave_deadline_ns_ = world_.now_ns() + kLeaveNs;
  after_leaving_ = std::move(next);
  listening_ = false;
  if (hub_ != nullptr && !member_->connected()) hub_->Leave();
  member_->Leave();
  FinishLeaving();
}

void Process::FinishLeaving() {
  const bool alone = !member_->connected() && (hub_ == nullptr || !hub_->has_connections());
  if (!alone && world_.now_ns() < leave_deadline_ns_) return;
  world_.CloseAllOf(*this);
  hub_.reset();
  member_.reset();
  state_ = State::kLoading;
  std::exchange(after_leaving_, nullptr)();
}

void Process::Later(int64_t low_ms, int64_t high_ms, std::function<void()> run) {
  world_.events().After(world_.random().Between(low_ms * 1000, high_ms * 1000) * 1000,
                        [this, run = std::move(run)] { Deliver(run); });
}

}  // namespace facet::sim
