// GroupHub's sockets: listens at the rendezvous address and carries messages between the hub and
// whoever connects. Lives on the control thread of rank 0.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <map>
#include <memory>

#include "base/status.h"
#include "worker/comm/control_connection.h"
#include "worker/comm/group_hub.h"

namespace facet::worker {

class RendezvousServer : private GroupHub::Wire {
 public:
  RendezvousServer(boost::asio::io_context& io, GroupHub::Options options);

  // UNAVAILABLE if the address cannot be listened on.
  Status Listen(const boost::asio::ip::tcp::endpoint& address);

  // Lets nobody in any more.
  void StopListening();

  GroupHub& hub() { return hub_; }

 private:
  void Send(int64_t connection, const ControlMessage& message) override;
  void FinishSending(int64_t connection) override;
  void Close(int64_t connection) override;

  void Accept();

  boost::asio::ip::tcp::acceptor acceptor_;
  std::map<int64_t, std::shared_ptr<ControlConnection>> connections_;
  int64_t num_accepted_ = 0;
  GroupHub hub_;
};

}  // namespace facet::worker
