#include "base/tcp_server.h"

#include <chrono>
#include <exception>
#include <utility>

#include "base/log.h"

namespace facet {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

struct HostAndPort {
  std::string host;
  std::string port;
};

HostAndPort Split(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return {"", address};
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  return {host, address.substr(colon + 1)};
}

}  // namespace

TcpServer::TcpServer(int connections_max, Connection connection)
    : connections_max_(connections_max),
      connection_(std::move(connection)),
      io_(1),
      acceptor_(io_) {}

Status TcpServer::Listen(const std::string& address) {
  const auto [host, port] = Split(address);
  try {
    tcp::resolver resolver(io_);
    const tcp::endpoint endpoint = *resolver.resolve(host, port, tcp::resolver::passive).begin();
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(tcp::acceptor::reuse_address(true));
    acceptor_.bind(endpoint);
    acceptor_.listen();
    port_ = acceptor_.local_endpoint().port();
  } catch (const std::exception& error) {
    return Unavailable("cannot listen on ", address, ": ", error.what());
  }
  asio::co_spawn(io_, AcceptLoop(), asio::detached);
  thread_ = std::thread([this] { io_.run(); });
  return absl::OkStatus();
}

void TcpServer::StopAccepting() {
  asio::post(io_, [this] {
    error_code ignored;
    acceptor_.close(ignored);
  });
}

void TcpServer::Stop() {
  io_.stop();
  if (thread_.joinable()) thread_.join();
}

asio::awaitable<void> TcpServer::AcceptLoop() {
  while (acceptor_.is_open()) {
    auto [error, socket] = co_await acceptor_.async_accept(kAwait);
    if (error == asio::error::operation_aborted) co_return;
    if (error) {
      // Out of descriptors, mostly: try again when some may be free.
      asio::steady_timer pause(io_, std::chrono::milliseconds(50));
      co_await pause.async_wait(kAwait);
      continue;
    }
    if (connections_ >= connections_max_) continue;  // Closes it.
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    asio::co_spawn(io_, Serve(std::move(socket)), asio::detached);
  }
}

asio::awaitable<void> TcpServer::Serve(tcp::socket socket) {
  ++connections_;
  try {
    co_await connection_(std::move(socket));
  } catch (const std::exception& error) {
    Log(kError, "connection threw", {{"port", port_}, {"what", error.what()}});
  }
  --connections_;
}

}  // namespace facet
