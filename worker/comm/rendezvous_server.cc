#include "worker/comm/rendezvous_server.h"

#include <string>
#include <utility>

namespace facet::worker {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

RendezvousServer::RendezvousServer(asio::io_context& io, GroupHub::Options options)
    : acceptor_(io), hub_(std::move(options), *this) {}

Status RendezvousServer::Listen(const tcp::endpoint& address) {
  error_code error;
  acceptor_.open(address.protocol(), error);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(address, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) return Unavailable("rendezvous address ", address, ": ", error.message());
  Accept();
  return absl::OkStatus();
}

void RendezvousServer::StopListening() {
  error_code ignored;
  acceptor_.close(ignored);
}

void RendezvousServer::Accept() {
  acceptor_.async_accept([this](const error_code& error, tcp::socket socket) {
    if (!acceptor_.is_open()) return;
    if (!error) {
      const int64_t number = num_accepted_++;
      auto connection = std::make_shared<ControlConnection>(std::move(socket));
      connections_[number] = connection;
      connection->Start(
          [this, number](ControlMessage&& message) { hub_.OnMessage(number, std::move(message)); },
          [this, number](const std::string& reason) {
            connections_.erase(number);
            hub_.OnClosed(number, reason);
          });
      hub_.OnConnected(number, connection->peer());
    }
    Accept();
  });
}

void RendezvousServer::Send(int64_t connection, const ControlMessage& message) {
  const auto found = connections_.find(connection);
  if (found != connections_.end()) found->second->Send(message);
}

void RendezvousServer::FinishSending(int64_t connection) {
  const auto found = connections_.find(connection);
  if (found != connections_.end()) found->second->FinishSending();
}

void RendezvousServer::Close(int64_t connection) {
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return;
  found->second->Close();
  connections_.erase(found);
}

}  // namespace facet::worker
