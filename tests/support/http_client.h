// One plain HTTP request over a socket of its own, for tests. No TLS, no redirects.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "base/check.h"

namespace facet::testing {

// A connection to 127.0.0.1:port.
inline int ConnectTo(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  FACET_CHECK(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  return fd;
}

inline void SendAll(int fd, const std::string& bytes) {
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t count = send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) return;  // The server closed: its answer says why.
    sent += static_cast<size_t>(count);
  }
}

inline std::string ReadAll(int fd) {
  std::string all;
  char buffer[4096];
  for (ssize_t count = 0; (count = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
    all.append(buffer, static_cast<size_t>(count));
  }
  return all;
}

// headers: whole lines, each with its line break.
inline std::string HttpRequest(const std::string& method,
                               const std::string& path,
                               const std::string& body,
                               const std::string& headers = "") {
  return method + " " + path + " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n" + headers +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

// The whole answer: status line, header and body, chunk marks included.
inline std::string HttpCall(int port,
                            const std::string& method,
                            const std::string& path,
                            const std::string& body = "",
                            const std::string& headers = "") {
  const int fd = ConnectTo(port);
  SendAll(fd, HttpRequest(method, path, body, headers));
  std::string answer = ReadAll(fd);
  close(fd);
  return answer;
}

}  // namespace facet::testing
