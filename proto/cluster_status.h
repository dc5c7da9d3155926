// What a GetStatusResponse says, for programs and as a verdict; the command line's and the status
// page's alike.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/status.h"
#include "facet/v1/inference.pb.h"

namespace facet {

// "pool/index".
std::string WorkerName(const v1::WorkerStatus& worker);

// "connecting", "ready", …
std::string StateName(v1::WorkerState state);

// OK if every configured worker is ready; otherwise FAILED_PRECONDITION names those that are not.
Status CheckReady(const v1::GetStatusResponse& status);

// One object: the fields of GetStatusResponse under their names, and "ready".
nlohmann::ordered_json StatusJson(const v1::GetStatusResponse& status);

}  // namespace facet
