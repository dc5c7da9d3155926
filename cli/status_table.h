// GetStatus as a table for people, as JSON for programs, and as a verdict.
#pragma once

#include <string>

#include "base/status.h"
#include "cli/terminal.h"
#include "facet/v1/inference.pb.h"

namespace facet {

// A line on the cluster, then one row for each worker, boxed; reasons of workers that are not ready
// stand below.
std::string StatusTable(const v1::GetStatusResponse& status, const Paint& paint);

// One object: the fields of GetStatusResponse under their names, and "ready".
std::string StatusJson(const v1::GetStatusResponse& status);

// "connecting", "ready", …
std::string StateName(v1::WorkerState state);

// OK if every configured worker is ready; otherwise FAILED_PRECONDITION names those that are not.
Status CheckReady(const v1::GetStatusResponse& status);

}  // namespace facet
