// A port of 127.0.0.1 that is nobody else's: for ranks of one machine that must know where to meet
// before the first of them listens.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "base/status.h"

namespace facet {

// Bound while it lives, without listening; SO_REUSEADDR lets the one who knows of it listen.
class ReservedPort {
 public:
  // UNAVAILABLE if no port is free.
  static StatusOr<ReservedPort> Reserve() {
    ReservedPort port(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    setsockopt(port.socket_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* any = reinterpret_cast<sockaddr*>(&address);
    if (bind(port.socket_, any, length) != 0 || getsockname(port.socket_, any, &length) != 0) {
      return Unavailable("no port of 127.0.0.1 is free");
    }
    port.port_ = ntohs(address.sin_port);
    return port;
  }

  ReservedPort(ReservedPort&& other) noexcept
      : socket_(std::exchange(other.socket_, -1)), port_(other.port_) {}

  ReservedPort& operator=(ReservedPort&&) = delete;

  ~ReservedPort() {
    if (socket_ >= 0) close(socket_);
  }

  int port() const { return port_; }

 private:
  explicit ReservedPort(int socket) : socket_(socket) {}

  int socket_;
  int port_ = 0;
};

}  // namespace facet
