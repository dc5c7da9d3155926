// Usage records as lines of files, and what two records of the same work are.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "facet/v1/usage.pb.h"

namespace facet {

// "worker_epoch/epoch/request_id": equal for records of the same work.
std::string UsageKey(const v1::UsageRecord& record);

// One JSON object without a line's end; integers are exact.
std::string UsageLine(const v1::UsageRecord& record);

// INVALID_ARGUMENT: not such an object, or a field has another type. Names that are not known are
// a newer version's and left out.
StatusOr<v1::UsageRecord> ParseUsageLine(std::string_view line);

}  // namespace facet
