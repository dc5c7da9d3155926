#include "worker/comm/group_hub.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/log.h"

namespace facet::worker {

GroupHub::GroupHub(Options options, Wire& wire)
    : options_(std::move(options)),
      wire_(wire),
      seats_(options_.num_ranks),
      round_(options_.num_ranks, kConnectedStep) {}

void GroupHub::OnConnected(int64_t connection, std::string peer) {
  if (Count(Role::kStranger) + Count(Role::kAnswered) >= kStrangersMax) {
    wire_.Close(connection);
    return;
  }
  const std::string nonce = FreshNonce();
  peers_[connection] = {.address = std::move(peer), .nonce = nonce, .since_ns = awake_ns_};
  wire_.Send(connection, {.type = ControlType::kChallenge, .texts = {nonce}});
}

void GroupHub::OnMessage(int64_t connection, ControlMessage&& message) {
  const auto found = peers_.find(connection);
  if (found == peers_.end()) return;
  found->second.heard_ns = awake_ns_;
  switch (found->second.role) {
    case Role::kStranger:
      OnHello(connection, std::move(message));
      return;
    case Role::kRank:
      OnRankMessage(RankOf(connection), message);
      return;
    case Role::kSpare:
      if (message.type != ControlType::kLeave) return;
      peers_.erase(found);
      wire_.Close(connection);
      return;
    case Role::kAnswered:
      return;
  }
}

void GroupHub::OnClosed(int64_t connection, const std::string& reason) {
  const auto found = peers_.find(connection);
  if (found == peers_.end()) return;
  const Peer peer = std::move(found->second);
  peers_.erase(found);
  if (peer.role == Role::kStranger) {
    Log(kWarning, "rendezvous refused", {{"peer", peer.address}, {"reason", reason}});
  }
  if (peer.role != Role::kRank) return;
  const int32_t rank = RankOf(connection);
  if (!started_) {
    Vacate(rank);  // It may come again.
  } else {
    End({.kind = FaultKind::kLost, .rank = rank, .reason = "its control " + reason});
  }
}

void GroupHub::Tick(int64_t now_ns) {
  awake_ns_ = clock_.Advance(now_ns);
  DropLateStrangers();
  if (awake_ns_ - heartbeat_ns_ >= options_.heartbeat_ns) {
    heartbeat_ns_ = awake_ns_;
    SendHeartbeats();
  }
  FindSilent();
  if (!started_ && !fault_ && awake_ns_ >= options_.spare_after_ns) AssignSpares();
}

void GroupHub::Leave() {
  for (const auto& [connection, peer] : peers_) {
    if (peer.role != Role::kRank) wire_.Close(connection);
  }
  std::erase_if(peers_, [](const auto& entry) { return entry.second.role != Role::kRank; });
  if (!fault_) Broadcast({.type = ControlType::kLeave, .rank = 0, .epoch = epoch_});
}

bool GroupHub::has_connections() const { return Count(Role::kRank) > 0; }

void GroupHub::OnHello(int64_t connection, ControlMessage&& hello) {
  Peer& peer = peers_[connection];
  if (const Status status = Check(peer.nonce, hello); !status.ok()) {
    Log(kWarning, "rendezvous refused", {{"peer", peer.address}, {"reason", MessageOf(status)}});
    const RefusedWhy refusal =
        absl::IsPermissionDenied(status) ? RefusedWhy::kKey : RefusedWhy::kMisfit;
    Refuse(connection, refusal, MessageOf(status));
    return;
  }
  if (fault_) {
    Refuse(connection, RefusedWhy::kAgain, StrCat("the group of epoch ", epoch_, " is over"));
    return;
  }
  const int32_t rank = hello.rank;
  peer.hello = std::move(hello);
  peer.heard_ns = awake_ns_;
  if (rank == kSpareRank) {
    if (Count(Role::kSpare) >= kSparesMax) {
      Refuse(connection, RefusedWhy::kAgain, StrCat("there are ", kSparesMax, " spares"));
      return;
    }
    peer.role = Role::kSpare;
    return;
  }
  TakeSeat(connection, rank);
}

Status GroupHub::Check(const std::string& nonce, const ControlMessage& hello) const {
  // Whoever does not know the key learns nothing else.
  if (hello.type != ControlType::kHello || hello.texts.size() != 3 ||
      !SameProof(hello.texts[1], GroupProof(options_.group_key, ProofBy::kRank, nonce, hello))) {
    return absl::PermissionDeniedError("the group key does not match");
  }
  if (hello.num_ranks != options_.num_ranks) {
    return FailedPrecondition("num_ranks is ", hello.num_ranks, "; the group here has ",
                              options_.num_ranks);
  }
  if (hello.rank < kSpareRank || hello.rank >= options_.num_ranks) {
    return FailedPrecondition("rank is ", hello.rank, "; it must be below ", options_.num_ranks);
  }
  return absl::OkStatus();
}

void GroupHub::TakeSeat(int64_t connection, int32_t rank) {
  Seat& seat = seats_[rank];
  const auto holder = peers_.find(seat.connection);
  if (holder != peers_.end() &&
      awake_ns_ - holder->second.heard_ns < kQuietHeartbeats * options_.heartbeat_ns) {
    Refuse(connection, RefusedWhy::kTaken,
           StrCat("rank ", rank, " of epoch ", epoch_, " is taken by ", holder->second.address));
    return;
  }
  if (started_) {
    // The holder is gone, and nobody has noticed yet; or it has left, as all are about to.
    if (!seat.left || !draining_) {
      End({.kind = FaultKind::kLost, .rank = rank, .reason = "came to the rendezvous anew"});
    }
    Refuse(connection, RefusedWhy::kAgain, StrCat("the group of epoch ", epoch_, " is over"));
    return;
  }
  Vacate(rank);
  Peer& peer = peers_[connection];
  peer.role = Role::kRank;
  seat.connection = connection;
  epoch_ = std::max(epoch_, peer.hello.epoch);
  if (FirstAbsent() < 0) StartGroup();
}

void GroupHub::Refuse(int64_t connection, RefusedWhy refusal, const std::string& why) {
  SayLastWords(
      connection,
      {.type = ControlType::kRefused, .numbers = {static_cast<int64_t>(refusal)}, .texts = {why}});
}

void GroupHub::SayLastWords(int64_t connection, const ControlMessage& message) {
  Peer& peer = peers_[connection];
  peer.role = Role::kAnswered;  // Until it closes, or a Tick does.
  peer.since_ns = awake_ns_;
  wire_.Send(connection, message);
  wire_.FinishSending(connection);
}

void GroupHub::StartGroup() {
  started_ = true;
  ControlMessage start = {.type = ControlType::kStart, .epoch = epoch_};
  start.texts.emplace_back();
  for (const Seat& seat : seats_) {
    start.texts.push_back(peers_[seat.connection].hello.texts[2]);
  }
  for (const Seat& seat : seats_) {
    const Peer& peer = peers_[seat.connection];
    start.texts[0] = GroupProof(options_.group_key, ProofBy::kHub, peer.nonce, peer.hello);
    wire_.Send(seat.connection, start);
  }
}

void GroupHub::OnRankMessage(int32_t rank, const ControlMessage& message) {
  // A rank that has not heard of the start yet says 0.
  if (message.epoch != 0 && message.epoch != epoch_) return;
  switch (message.type) {
    case ControlType::kLeave:
      return OnLeave(rank);
    case ControlType::kFault:
      return OnFault(rank, message);
    case ControlType::kStep:
      return OnStep(rank, message);
    default:  // A heartbeat; the rest is not for a hub.
      return;
  }
}

void GroupHub::OnLeave(int32_t rank) {
  if (rank == 0) return Leave();
  if (!started_) return Vacate(rank);
  wire_.Close(seats_[rank].connection);
  peers_.erase(seats_[rank].connection);
  seats_[rank].left = true;
  if (fault_) return;
  Broadcast({.type = ControlType::kLeave, .rank = rank, .epoch = epoch_});
  if (round_.num_ready() > 0) {
    End({.kind = FaultKind::kLost,
         .rank = rank,
         .reason = StrCat("left before step ", round_.step())});
  }
}

void GroupHub::OnFault(int32_t rank, const ControlMessage& message) {
  GroupFault fault = {.kind = message.kind, .rank = message.rank};
  if (!message.texts.empty()) fault.reason = message.texts[0];
  if (!started_) {
    fault.rank = FirstAbsent();
  } else if (message.rank < 0 && message.step == round_.step()) {
    fault.rank = round_.FirstAbsent();
  }
  // A rank that waited for a step which has begun by now was itself too slow to hear of it.
  if (fault.rank < 0 || fault.rank >= options_.num_ranks) fault.rank = rank;
  End(std::move(fault));
}

void GroupHub::OnStep(int32_t rank, const ControlMessage& message) {
  if (fault_) return;
  const int64_t step = round_.step();
  const std::optional<StepWish> wish = WishAt(message.numbers, 0);
  if (!started_ || message.step != step || round_.IsReady(rank) || !wish ||
      message.numbers.size() != kWishNumbers) {
    End({.rank = rank,
         .reason = StrCat("says it is ready for step ", message.step, " where step ", step,
                          " is next, or brings what is no wish")});
    return;
  }
  if (const int32_t left = FirstLeft(); left >= 0) {
    End({.kind = FaultKind::kLost, .rank = left, .reason = StrCat("left before step ", step)});
    return;
  }
  round_.SetReady(rank, *wish);
  if (round_.num_ready() == 1) {
    Broadcast({.type = ControlType::kCalled, .rank = rank, .epoch = epoch_, .step = step}, rank);
  }
  if (!round_.complete()) return;
  const StepHeader header = round_.Take();
  draining_ = header.all_leaving();
  ControlMessage begins = {.type = ControlType::kBegins, .epoch = epoch_, .step = header.step};
  for (const StepWish& brought : header.ranks) AppendWish(brought, begins.numbers);
  Broadcast(begins);
}

void GroupHub::DropLateStrangers() {
  for (auto it = peers_.begin(); it != peers_.end();) {
    const Peer& peer = it->second;
    const bool late = (peer.role == Role::kStranger || peer.role == Role::kAnswered) &&
                      awake_ns_ - peer.since_ns > kHelloNsMax;
    if (late) wire_.Close(it->first);
    it = late ? peers_.erase(it) : std::next(it);
  }
}

void GroupHub::SendHeartbeats() {
  for (const auto& [connection, peer] : peers_) {
    const bool wants = peer.role == Role::kSpare || (peer.role == Role::kRank && !fault_);
    if (wants) wire_.Send(connection, {.type = ControlType::kHeartbeat});
  }
}

void GroupHub::FindSilent() {
  std::vector<int64_t> silent;
  for (const auto& [connection, peer] : peers_) {
    const bool speaks = peer.role == Role::kSpare || (peer.role == Role::kRank && !fault_);
    if (speaks && awake_ns_ - peer.heard_ns > options_.silence_ns) silent.push_back(connection);
  }
  for (const int64_t connection : silent) {
    const int64_t silent_ms = (awake_ns_ - peers_[connection].heard_ns) / 1'000'000;
    const int32_t rank = RankOf(connection);
    if (rank >= 0 && started_) {
      End({.kind = FaultKind::kLost,
           .rank = rank,
           .reason = StrCat("silent for ", silent_ms, " ms")});
    } else if (rank >= 0) {
      Vacate(rank);
    } else {
      wire_.Close(connection);
      peers_.erase(connection);
    }
  }
}

void GroupHub::AssignSpares() {
  for (int32_t rank = 1; rank < options_.num_ranks; ++rank) {
    Seat& seat = seats_[rank];
    if (seat.connection >= 0) continue;
    if (seat.assigned_ns && awake_ns_ - *seat.assigned_ns < options_.assign_ns) continue;
    const auto spare = std::find_if(peers_.begin(), peers_.end(), [](const auto& entry) {
      return entry.second.role == Role::kSpare;
    });
    if (spare == peers_.end()) return;
    seat.assigned_ns = awake_ns_;
    const Peer& peer = spare->second;
    Log(kWarning, "spare takes a rank", {{"peer", peer.address}, {"rank", rank}});
    SayLastWords(
        spare->first,
        {.type = ControlType::kAssign,
         .rank = rank,
         .texts = {GroupProof(options_.group_key, ProofBy::kHub, peer.nonce, peer.hello)}});
  }
}

void GroupHub::Vacate(int32_t rank) {
  Seat& seat = seats_[rank];
  if (peers_.erase(seat.connection) > 0) wire_.Close(seat.connection);
  seat.connection = -1;
}

void GroupHub::End(GroupFault fault) {
  if (fault_) return;
  fault.epoch = epoch_;
  fault_ = std::move(fault);
  Broadcast({.type = ControlType::kFault,
             .kind = fault_->kind,
             .rank = fault_->rank,
             .epoch = epoch_,
             .texts = {fault_->reason}});
}

void GroupHub::Broadcast(const ControlMessage& message, int32_t except) {
  for (int32_t rank = 0; rank < options_.num_ranks; ++rank) {
    if (rank != except && peers_.contains(seats_[rank].connection)) {
      wire_.Send(seats_[rank].connection, message);
    }
  }
}

int32_t GroupHub::RankOf(int64_t connection) const {
  for (int32_t rank = 0; rank < options_.num_ranks; ++rank) {
    if (seats_[rank].connection == connection) return rank;
  }
  return -1;
}

int32_t GroupHub::FirstAbsent() const {
  for (int32_t rank = 0; rank < options_.num_ranks; ++rank) {
    if (seats_[rank].connection < 0) return rank;
  }
  return -1;
}

int32_t GroupHub::FirstLeft() const {
  const auto left =
      std::find_if(seats_.begin(), seats_.end(), [](const Seat& seat) { return seat.left; });
  return left == seats_.end() ? -1 : static_cast<int32_t>(left - seats_.begin());
}

size_t GroupHub::Count(Role role) const {
  return std::count_if(peers_.begin(), peers_.end(),
                       [role](const auto& entry) { return entry.second.role == role; });
}

}  // namespace facet::worker
