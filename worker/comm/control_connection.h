// One TCP connection that carries control messages, on the control thread of its process.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "worker/comm/control_message.h"

namespace facet::worker {

// Life: open → closed. Pending operations keep it alive; whoever its callbacks refer to must
// outlive the run of the io_context.
class ControlConnection : public std::enable_shared_from_this<ControlConnection> {
 public:
  using OnMessage = std::function<void(ControlMessage&& message)>;
  using OnClosed = std::function<void(const std::string& reason)>;

  explicit ControlConnection(boost::asio::ip::tcp::socket socket);

  // Calls on_message for each message and on_closed once, when the other side closes or says
  // something that is no message. Neither is called after Close.
  void Start(OnMessage on_message, OnClosed on_closed);

  // Dropped if the connection is closed; closes it, a little later, if the other side does not
  // read.
  void Send(const ControlMessage& message);

  // Says that no more will be sent; the other side may go on.
  void FinishSending();

  void Close();

  bool open() const { return socket_.is_open(); }

  // "127.0.0.1:4711"
  const std::string& peer() const { return peer_; }

 private:
  static constexpr size_t kUnsentMax = 64;

  void ReadLength();
  void ReadBody();
  void Write();
  void CloseBecause(const std::string& reason);

  boost::asio::ip::tcp::socket socket_;
  std::string peer_;
  OnMessage on_message_;
  OnClosed on_closed_;
  uint32_t length_ = 0;
  std::string body_;
  std::deque<std::string> unsent_;
  bool finishing_ = false;
};

}  // namespace facet::worker
