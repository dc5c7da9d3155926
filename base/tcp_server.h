// A listening socket and the one thread that serves its connections, each by a coroutine.
#pragma once

#include <boost/asio.hpp>
#include <functional>
#include <string>
#include <thread>

#include "base/status.h"

namespace facet {

class TcpServer {
 public:
  // Serves one connection; runs on the server's thread. What it throws is logged.
  using Connection = std::function<boost::asio::awaitable<void>(boost::asio::ip::tcp::socket)>;

  // Connections beyond connections_max are closed at once.
  TcpServer(int connections_max, Connection connection);

  ~TcpServer() { Stop(); }

  // address is host:port, [host]:port or :port; port 0 picks one. Starts the thread. UNAVAILABLE
  // names the address and why it cannot be listened on.
  Status Listen(const std::string& address);

  int port() const { return port_; }

  // What coroutines and timers of the connections run on.
  boost::asio::io_context& io() { return io_; }

  // No new connections from now on; those there are go on. From any thread.
  void StopAccepting();

  // Ends the thread; connections are dropped where they stand.
  void Stop();

 private:
  boost::asio::awaitable<void> AcceptLoop();
  boost::asio::awaitable<void> Serve(boost::asio::ip::tcp::socket socket);

  const int connections_max_;
  const Connection connection_;
  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  int port_ = 0;
  int connections_ = 0;  // Of the server's thread.
  std::thread thread_;
};

}  // namespace facet
