// Rank 0's side of the control connections: lets ranks in that know the group key, starts the group
// once all are there, and decides what ended it, so that all ranks name the same cause.
//
// Life: forming → started → ended. Lives on the control thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/comm/control_connection.h"
#include "worker/comm/control_message.h"

namespace facet::worker {

class GroupHub {
 public:
  struct Options {
    int32_t num_ranks = 0;
    int64_t epoch = 0;
    std::string group_key;
    int64_t silence_ns = 0;  // A rank not heard for so long is lost.
  };

  GroupHub(boost::asio::io_context& io, Options options);

  // UNAVAILABLE if the address cannot be listened on.
  Status Listen(const boost::asio::ip::tcp::endpoint& address);

  // Due every few tens of milliseconds: sends heartbeats where due and looks for silent ranks.
  // awake_ns: how long this process has been running, without the time in which it stood still and
  // could hear nobody.
  void Tick(int64_t awake_ns, bool heartbeat_due);

  // Tells all ranks that rank 0 leaves, and listens no longer. They close their connections.
  void Leave();

  bool has_connections() const;

 private:
  static constexpr size_t kStrangersMax = size_t{2} * kGroupRanksMax;
  static constexpr int64_t kHelloNsMax = 2'000'000'000;  // For a stranger to say who it is.

  // A connection that has shown nothing yet, or was refused (then without a nonce).
  struct Stranger {
    std::shared_ptr<ControlConnection> connection;
    std::string nonce;
    int64_t since_ns = 0;
  };

  struct Seat {
    std::shared_ptr<ControlConnection> connection;
    ControlMessage hello;
    std::string nonce;
    int64_t heard_ns = 0;
    bool left = false;
  };

  void Accept();
  void OnMessage(ControlConnection& connection, ControlMessage&& message);
  void OnClosed(ControlConnection& connection, const std::string& reason);
  void OnHello(Stranger stranger, ControlMessage&& hello);
  // Why this Hello is not let in.
  Status Check(const Stranger& stranger, const ControlMessage& hello) const;
  void SayLastWords(Stranger stranger, const ControlMessage& message);
  void StartGroup();
  void OnRankMessage(int32_t rank, const ControlMessage& message);
  void End(GroupFault fault);
  ControlMessage FaultMessage() const;
  void Broadcast(const ControlMessage& message);
  int32_t RankOf(const ControlConnection& connection) const;  // -1: a stranger.
  std::vector<int32_t> AbsentRanks() const;

  const Options options_;
  boost::asio::ip::tcp::acceptor acceptor_;
  int64_t awake_ns_ = 0;  // At the last Tick; what since_ns and heard_ns count.
  std::map<ControlConnection*, Stranger> strangers_;
  std::vector<Seat> seats_;
  bool started_ = false;
  std::optional<GroupFault> fault_;
};

}  // namespace facet::worker
