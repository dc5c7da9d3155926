// Asks a server after its health, as probes do that cannot speak its TLS.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/status.h"

namespace grpc {
class ChannelCredentials;
}

namespace facet {

// OK if the server at address (host:port; 0.0.0.0 is this machine) says within timeout that it
// serves, by grpc.health.v1.Health/Check of the service "". UNAVAILABLE if it does not serve or
// does not answer.
Status CheckServing(const std::string& address,
                    const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                    absl::Duration timeout);

}  // namespace facet
