// The OpenAI-compatible HTTP front: POST /v1/chat/completions (also as server-sent events),
// GET /v1/models, GET /health. One thread with a coroutine per connection; HTTP and JSON only.
// Everything but /health needs the key of a tenant, which is looked at before the body is read.
//
// Bounds: header and body bytes, connections, time to send a request, time a client may take to
// read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "router/admission/tenants.h"
#include "router/router.h"

namespace facet::router {

class OpenAiFront {
 public:
  struct Options {
    std::string address;  // Port 0 picks one.
    int64_t body_bytes_max = 4 << 20;
    int header_bytes_max = 16 << 10;
    int connections_max = 1024;
    int64_t request_ms_max = 60'000;  // To send a request, and idle between two.
    int64_t write_ms_max = 30'000;    // For a client to take a piece of its answer.
  };

  // Serves from now on. Router and tenants must outlive the front's last answer.
  static StatusOr<std::unique_ptr<OpenAiFront>> Start(const Options& options,
                                                      const TenantDirectory& tenants,
                                                      Router& router);
  ~OpenAiFront();

  int port() const;

  // Accepts nothing more, lets answers that ended be written at most so long, and stops the thread.
  void Shutdown(int64_t wait_ms_max);

 private:
  class Server;

  explicit OpenAiFront(std::unique_ptr<Server> server);

  std::unique_ptr<Server> server_;
};

}  // namespace facet::router
