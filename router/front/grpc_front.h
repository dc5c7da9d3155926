// facet.v1.InferenceService over gRPC, with grpc.health.v1 and reflection. Bytes → ClientRequest,
// and answer events → messages. Every method of the service needs the key of a tenant; health and
// reflection are open.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "router/admission/tenants.h"
#include "router/router.h"

namespace grpc {
class ServerCredentials;
}

namespace facet::router {

class GrpcFront {
 public:
  struct Options {
    std::string address;  // Port 0 picks one.
    std::shared_ptr<grpc::ServerCredentials> credentials;
    int32_t message_bytes_max = 4 << 20;
  };

  // Listens from now on. Router and tenants must outlive the front, and the router must not have
  // started: the front listens to its snapshots for health.
  static StatusOr<std::unique_ptr<GrpcFront>> Start(const Options& options,
                                                    const TenantDirectory& tenants,
                                                    Router& router);
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
