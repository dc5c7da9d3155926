// gRPC's own log lines as events of ours, so that stderr stays one JSON line per event.
#pragma once

namespace facet {

// For the whole process; before gRPC is used. GRPC_VERBOSITY still chooses what gRPC says.
void LogGrpcAsEvents();

}  // namespace facet
