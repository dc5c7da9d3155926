// facet.v1.InferenceService over gRPC, with grpc.health.v1 and reflection. Bytes → ClientRequest,
// and answer events → messages; nothing is decided here.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "router/router.h"

namespace facet::router {

class GrpcFront {
 public:
  struct Options {
    std::string address;  // Port 0 picks one.
    int32_t message_bytes_max = 4 << 20;
  };

  // Listens from now on. The router must outlive the front and not have started: the front listens
  // to its snapshots for health.
  static StatusOr<std::unique_ptr<GrpcFront>> Start(const Options& options, Router& router);
  ~GrpcFront();

  int port() const;

  // Health says not serving, so that balancers look elsewhere; calls go on.
  void BeginDrain();

  // Accepts no calls, waits for those that run at most so long, and cancels the rest.
  void Shutdown(int64_t wait_ms_max);

 private:
  class Server;

  explicit GrpcFront(std::unique_ptr<Server> server);

  std::unique_ptr<Server> server_;
};

}  // namespace facet::router
