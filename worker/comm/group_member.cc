#include "worker/comm/group_member.h"

#include <utility>

#include "base/check.h"

namespace facet::worker {

GroupMember::GroupMember(Options options, Wire& wire) : options_(std::move(options)), wire_(wire) {}

void GroupMember::OnConnected() {
  link_ = Link::kOpen;
  heard_ns_ = awake_ns_;
}

void GroupMember::OnMessage(ControlMessage&& message) {
  heard_ns_ = awake_ns_;
  if (started_ && message.epoch != epoch_ && message.type != ControlType::kHeartbeat) return;
  switch (message.type) {
    case ControlType::kChallenge:
      if (message.texts.size() == 1 && hub_nonce_.empty()) OnChallenge(message.texts[0]);
      return;
    case ControlType::kRefused:
      if (!started_) OnRefused(message);
      return;
    case ControlType::kStart:
      if (!started_) OnStart(std::move(message));
      return;
    case ControlType::kAssign:
      if (options_.rank == kSpareRank) OnAssign(message);
      return;
    case ControlType::kFault:
      Drop();
      Decide({.kind = message.kind,
              .rank = message.rank,
              .epoch = started_ ? epoch_ : message.epoch,
              .reason = message.texts.empty() ? "" : message.texts[0]});
      return;
    case ControlType::kLeave:
      if (message.rank == 0) OnHubLeft();
      return;
    case ControlType::kCalled:
      called_step_ = message.step;
      return;
    case ControlType::kBegins:
      OnBegins(message);
      return;
    case ControlType::kHello:
    case ControlType::kHeartbeat:
    case ControlType::kStep:
      return;
  }
}

void GroupMember::OnClosed(const std::string& reason) {
  link_ = Link::kNone;
  if (leaving_ || hub_left_ || settled()) return;
  if (!started_) {
    ComeAgain();
  } else {
    Decide({.kind = FaultKind::kLost, .rank = 0, .reason = "its control " + reason});
  }
}

void GroupMember::Tick(int64_t now_ns) {
  now_ns_ = now_ns;
  awake_ns_ = clock_.Advance(now_ns);
  if (reported_ && !fault_ && now_ns >= verdict_ns_) Decide(*reported_);
  if (leaving_ || settled()) return;
  if (link_ == Link::kNone) {
    if (started_ || now_ns < retry_ns_) return;
    link_ = Link::kConnecting;
    heard_ns_ = awake_ns_;
    wire_.Connect();
    return;
  }
  const int64_t silent_ns = awake_ns_ - heard_ns_;
  if (silent_ns > options_.silence_ns) {
    Drop();
    if (!started_) return ComeAgain();
    Decide({.kind = FaultKind::kLost,
            .rank = 0,
            .reason = StrCat("silent for ", silent_ns / 1'000'000, " ms")});
    return;
  }
  // The first that the hub hears is to be our Hello.
  if (hub_nonce_.empty() || awake_ns_ - heartbeat_ns_ < options_.heartbeat_ns) return;
  heartbeat_ns_ = awake_ns_;
  wire_.Send({.type = ControlType::kHeartbeat, .rank = options_.rank});
}

void GroupMember::Report(GroupFault fault) {
  if (fault_ || reported_) return;
  reported_ = std::move(fault);
  if (link_ != Link::kOpen || hub_nonce_.empty()) {
    if (!started_) reported_->rank = 0;  // The rendezvous itself is absent.
    Decide(*reported_);
    return;
  }
  wire_.Send({.type = ControlType::kFault,
              .kind = reported_->kind,
              .rank = reported_->rank,
              .epoch = epoch_,
              .step = next_step_ - 1,
              .texts = {reported_->reason.substr(0, 1000)}});
  verdict_ns_ = now_ns_ + kVerdictNs;
}

void GroupMember::Ready(const StepWish& wish) {
  FACET_CHECK(started_);
  if (fault_) return;
  if (hub_left_) {
    Decide(
        {.kind = FaultKind::kLost, .rank = 0, .reason = StrCat("left before step ", next_step_)});
    return;
  }
  ControlMessage ready = {
      .type = ControlType::kStep, .rank = options_.rank, .epoch = epoch_, .step = next_step_++};
  AppendWish(wish, ready.numbers);
  wire_.Send(ready);
}

void GroupMember::Leave() {
  leaving_ = true;
  if (link_ == Link::kConnecting) Drop();
  if (link_ == Link::kNone) return;
  wire_.Send({.type = ControlType::kLeave, .rank = options_.rank, .epoch = epoch_});
}

void GroupMember::OnChallenge(const std::string& hub_nonce) {
  hub_nonce_ = hub_nonce;
  hello_ = {.type = ControlType::kHello,
            .rank = options_.rank,
            .num_ranks = options_.num_ranks,
            .epoch = options_.epoch_min,
            .texts = {FreshNonce(), "", options_.addresses}};
  hello_.texts[1] = GroupProof(options_.group_key, ProofBy::kRank, hub_nonce_, hello_);
  wire_.Send(hello_);
}

void GroupMember::OnRefused(const ControlMessage& message) {
  Drop();
  const auto refusal = message.numbers.size() == 1 ? static_cast<RefusedWhy>(message.numbers[0])
                                                   : RefusedWhy::kMisfit;
  const std::string text = StrCat("rendezvous at ", options_.rendezvous_address,
                                  " refused: ", message.texts.empty() ? "" : message.texts[0]);
  if (refusal != RefusedWhy::kTaken) taken_ns_ = 0;
  if (refusal == RefusedWhy::kAgain) return ComeAgain();
  if (refusal == RefusedWhy::kTaken) {
    if (taken_ns_ == 0) taken_ns_ = now_ns_;
    if (now_ns_ - taken_ns_ < kTakenSilences * options_.silence_ns) return ComeAgain();
  }
  Refuse(refusal == RefusedWhy::kKey ? absl::PermissionDeniedError(text)
                                     : FailedPrecondition(text));
}

void GroupMember::OnStart(ControlMessage&& message) {
  if (message.texts.size() != options_.num_ranks + 1U || message.epoch < options_.epoch_min) {
    Drop();
    return ComeAgain();
  }
  if (!HubKnowsKey(message.texts[0])) return;
  started_ = true;
  epoch_ = message.epoch;
  addresses_.assign(message.texts.begin() + 1, message.texts.end());
}

void GroupMember::OnAssign(const ControlMessage& message) {
  if (message.texts.size() != 1 || message.rank < 0 || message.rank >= options_.num_ranks ||
      !HubKnowsKey(message.texts[0])) {
    return;
  }
  Drop();
  assigned_ = message.rank;
}

void GroupMember::OnBegins(const ControlMessage& message) {
  StepHeader header = {.step = message.step};
  for (size_t i = 0; i < message.numbers.size(); i += kWishNumbers) {
    const std::optional<StepWish> wish = WishAt(message.numbers, i);
    if (wish) header.ranks.push_back(*wish);
  }
  const int64_t last = header_ ? header_->step : kConnectedStep - 1;
  if (header.step != next_step_ - 1 || header.step != last + 1 ||
      header.ranks.size() != static_cast<size_t>(options_.num_ranks)) {
    Report({.rank = 0, .reason = StrCat("began step ", header.step, " after step ", last)});
    return;
  }
  header_ = std::move(header);
}

void GroupMember::OnHubLeft() {
  Drop();
  if (!started_) return ComeAgain();
  hub_left_ = true;
  const bool waits = next_step_ > kConnectedStep && (!header_ || header_->step < next_step_ - 1);
  if (waits && !leaving_) {
    Decide({.kind = FaultKind::kLost,
            .rank = 0,
            .reason = StrCat("left before step ", next_step_ - 1)});
  }
}

bool GroupMember::HubKnowsKey(const std::string& proof) {
  if (!hub_nonce_.empty() &&
      SameProof(proof, GroupProof(options_.group_key, ProofBy::kHub, hub_nonce_, hello_))) {
    return true;
  }
  Drop();
  Refuse(absl::PermissionDeniedError(
      StrCat("rendezvous at ", options_.rendezvous_address, " does not know the group key")));
  return false;
}

void GroupMember::Drop() {
  if (link_ != Link::kNone) wire_.Close();
  link_ = Link::kNone;
}

void GroupMember::ComeAgain() {
  hub_nonce_.clear();
  if (leaving_) return;
  retry_ns_ = now_ns_ + kRetryNs;
}

void GroupMember::Refuse(Status status) {
  if (!started_ && !fault_ && refused_.ok()) refused_ = std::move(status);
}

void GroupMember::Decide(GroupFault fault) {
  if (fault_) return;
  if (fault.rank < 0) fault.rank = 0;  // The hub, who would know better, does not answer.
  if (started_ || fault.epoch == 0) fault.epoch = epoch();
  fault_ = std::move(fault);
}

bool GroupMember::settled() const {
  return fault_.has_value() || !refused_.ok() || assigned_.has_value();
}

}  // namespace facet::worker
