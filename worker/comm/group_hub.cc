#include "worker/comm/group_hub.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace facet::worker {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

GroupHub::GroupHub(asio::io_context& io, Options options)
    : options_(std::move(options)), acceptor_(io), seats_(options_.num_ranks) {}

Status GroupHub::Listen(const tcp::endpoint& address) {
  error_code error;
  acceptor_.open(address.protocol(), error);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(address, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) return Unavailable("rendezvous address ", address, ": ", error.message());
  Accept();
  return absl::OkStatus();
}

void GroupHub::Tick(int64_t awake_ns, bool heartbeat_due) {
  awake_ns_ = awake_ns;
  for (auto it = strangers_.begin(); it != strangers_.end();) {
    const bool late = awake_ns - it->second.since_ns > kHelloNsMax;
    if (late) it->second.connection->Close();
    it = late ? strangers_.erase(it) : std::next(it);
  }
  if (fault_) return;
  for (int32_t rank = 0; rank < options_.num_ranks; ++rank) {
    Seat& seat = seats_[rank];
    if (seat.connection == nullptr || seat.left) continue;
    if (heartbeat_due) seat.connection->Send({.type = ControlType::kHeartbeat});
    const int64_t silent_ns = awake_ns - seat.heard_ns;
    if (silent_ns > options_.silence_ns) {
      End({.kind = FaultKind::kLost,
           .rank = rank,
           .reason = StrCat("silent for ", silent_ns / 1'000'000, " ms")});
      return;
    }
  }
}

void GroupHub::Leave() {
  error_code ignored;
  acceptor_.close(ignored);
  for (auto& [raw, stranger] : strangers_) stranger.connection->Close();
  strangers_.clear();
  if (!fault_) Broadcast({.type = ControlType::kLeave, .rank = 0});
}

bool GroupHub::has_connections() const {
  return std::any_of(seats_.begin(), seats_.end(), [](const Seat& seat) {
    return seat.connection != nullptr && seat.connection->open();
  });
}

void GroupHub::Accept() {
  acceptor_.async_accept([this](const error_code& error, tcp::socket socket) {
    if (!acceptor_.is_open()) return;
    if (!error && strangers_.size() < kStrangersMax) {
      auto connection = std::make_shared<ControlConnection>(std::move(socket));
      ControlConnection* raw = connection.get();
      std::string nonce = FreshNonce();
      strangers_[raw] = {connection, nonce, awake_ns_};
      connection->Start(
          [this, raw](ControlMessage&& message) { OnMessage(*raw, std::move(message)); },
          [this, raw](const std::string& reason) { OnClosed(*raw, reason); });
      connection->Send({.type = ControlType::kChallenge, .texts = {std::move(nonce)}});
    }
    Accept();
  });
}

void GroupHub::OnMessage(ControlConnection& connection, ControlMessage&& message) {
  if (const int32_t rank = RankOf(connection); rank >= 0) {
    OnRankMessage(rank, message);
    return;
  }
  const auto found = strangers_.find(&connection);
  if (found == strangers_.end() || found->second.nonce.empty()) return;  // Has had its answer.
  Stranger stranger = std::move(found->second);
  strangers_.erase(found);
  OnHello(std::move(stranger), std::move(message));
}

void GroupHub::OnClosed(ControlConnection& connection, const std::string& reason) {
  const int32_t rank = RankOf(connection);
  if (rank < 0) {
    const auto found = strangers_.find(&connection);
    if (found == strangers_.end()) return;
    if (!found->second.nonce.empty()) {
      Log(kWarning, "rendezvous refused", {{"peer", connection.peer()}, {"reason", reason}});
    }
    strangers_.erase(found);
    return;
  }
  if (seats_[rank].left || fault_) return;
  if (started_) {
    End({.kind = FaultKind::kLost, .rank = rank, .reason = "its control " + reason});
  } else {
    seats_[rank] = {};  // It may come again.
  }
}

void GroupHub::OnHello(Stranger stranger, ControlMessage&& hello) {
  if (const Status status = Check(stranger, hello); !status.ok()) {
    Log(kWarning, "rendezvous refused",
        {{"peer", stranger.connection->peer()},
         {"reason", MessageOf(status)},
         {"epoch", options_.epoch}});
    const bool knows_key = !absl::IsPermissionDenied(status);
    SayLastWords(std::move(stranger), {.type = ControlType::kRefused,
                                       .epoch = knows_key ? options_.epoch : 0,
                                       .texts = {knows_key ? "" : "key", MessageOf(status)}});
    return;
  }
  if (fault_) {
    SayLastWords(std::move(stranger), FaultMessage());
    return;
  }
  const int32_t rank = hello.rank;
  seats_[rank] = {std::move(stranger.connection), std::move(hello), std::move(stranger.nonce),
                  awake_ns_, false};
  if (AbsentRanks().empty()) StartGroup();
}

Status GroupHub::Check(const Stranger& stranger, const ControlMessage& hello) const {
  // Whoever does not know the key learns nothing else.
  if (hello.type != ControlType::kHello || hello.texts.size() != 3 ||
      !SameProof(hello.texts[1],
                 GroupProof(options_.group_key, ProofBy::kRank, stranger.nonce, hello))) {
    return absl::PermissionDeniedError("the group key does not match");
  }
  if (hello.epoch != options_.epoch) {
    return FailedPrecondition("epoch is ", hello.epoch, "; the group here has ", options_.epoch);
  }
  if (hello.num_ranks != options_.num_ranks) {
    return FailedPrecondition("num_ranks is ", hello.num_ranks, "; the group here has ",
                              options_.num_ranks);
  }
  if (hello.rank < 0 || hello.rank >= options_.num_ranks) {
    return FailedPrecondition("rank is ", hello.rank, "; it must be below ", options_.num_ranks);
  }
  if (started_ || seats_[hello.rank].connection != nullptr) {
    return FailedPrecondition("rank ", hello.rank, " of epoch ", hello.epoch, " is taken");
  }
  return absl::OkStatus();
}

void GroupHub::SayLastWords(Stranger stranger, const ControlMessage& message) {
  stranger.connection->Send(message);
  stranger.connection->FinishSending();
  stranger.nonce.clear();
  ControlConnection* raw = stranger.connection.get();
  strangers_[raw] = std::move(stranger);  // Until it closes, or a Tick does.
}

void GroupHub::StartGroup() {
  started_ = true;
  ControlMessage start = {.type = ControlType::kStart, .epoch = options_.epoch};
  start.texts.emplace_back();
  for (const Seat& seat : seats_) start.texts.push_back(seat.hello.texts[2]);
  for (const Seat& seat : seats_) {
    start.texts[0] = GroupProof(options_.group_key, ProofBy::kHub, seat.nonce, seat.hello);
    seat.connection->Send(start);
  }
}

void GroupHub::OnRankMessage(int32_t rank, const ControlMessage& message) {
  seats_[rank].heard_ns = awake_ns_;
  if (message.type == ControlType::kLeave) {
    if (!started_) {
      seats_[rank].connection->Close();
      seats_[rank] = {};
      return;
    }
    seats_[rank].left = true;
    seats_[rank].connection->Close();
    if (!fault_) Broadcast({.type = ControlType::kLeave, .rank = rank});
  } else if (message.type == ControlType::kFault) {
    GroupFault fault = {.kind = message.kind, .rank = message.rank};
    if (!message.texts.empty()) fault.reason = message.texts[0];
    if (!started_) {
      const std::vector<int32_t> absent = AbsentRanks();
      fault.rank = absent.front();
    }
    if (fault.rank < 0 || fault.rank >= options_.num_ranks) fault.rank = rank;
    End(std::move(fault));
  }
}

void GroupHub::End(GroupFault fault) {
  if (fault_) return;
  fault.epoch = options_.epoch;
  fault_ = std::move(fault);
  Broadcast(FaultMessage());
}

ControlMessage GroupHub::FaultMessage() const {
  return {.type = ControlType::kFault,
          .kind = fault_->kind,
          .rank = fault_->rank,
          .epoch = options_.epoch,
          .texts = {fault_->reason}};
}

void GroupHub::Broadcast(const ControlMessage& message) {
  for (const Seat& seat : seats_) {
    if (seat.connection != nullptr && !seat.left) seat.connection->Send(message);
  }
}

int32_t GroupHub::RankOf(const ControlConnection& connection) const {
  for (int32_t rank = 0; rank < options_.num_ranks; ++rank) {
    if (seats_[rank].connection.get() == &connection) return rank;
  }
  return -1;
}

std::vector<int32_t> GroupHub::AbsentRanks() const {
  std::vector<int32_t> absent;
  for (int32_t rank = 0; rank < options_.num_ranks; ++rank) {
    if (seats_[rank].connection == nullptr) absent.push_back(rank);
  }
  return absent;
}

}  // namespace facet::worker
