#include "proto/grpc_log.h"

#include <grpc/support/log.h>

#include "base/log.h"

namespace facet {
namespace {

void LogOne(gpr_log_func_args* line) {
  // What it calls an error is mostly a peer's doing; our own code says what it means for us.
  const LogLevel level = line->severity == GPR_LOG_SEVERITY_ERROR ? kWarning : kDebug;
  Log(level, "grpc", {{"file", line->file}, {"line", line->line}, {"message", line->message}});
}

}  // namespace

void LogGrpcAsEvents() { gpr_set_log_function(LogOne); }

}  // namespace facet
