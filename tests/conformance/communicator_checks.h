// What the cases of the communicators' conformance suite share.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"

namespace facet::worker {

inline constexpr absl::Duration kPatience = absl::Seconds(15);  // Where nothing should go wrong.
// What should take a fraction of a second and is not the end of kPatience: shared machines stand
// still for seconds at times.
inline constexpr double kSoonSeconds = 8;

#define SAY_IF_ERROR(expression) \
  if (const Status status = (expression); !status.ok()) return MessageOf(status)

inline double SecondsSince(int64_t start_ns) {
  return static_cast<double>(Clock::Real().NowNs() - start_ns) / 1e9;
}

inline constexpr int32_t kAnyRank = -1;

// Nothing if this is the error that ended the group, else what is wrong with it.
inline std::string WantEnd(const Status& status,
                           absl::StatusCode code,
                           int32_t rank,
                           int64_t epoch,
                           const std::string& reason = "") {
  const std::string message = MessageOf(status);
  const std::string start =
      StrCat("epoch ", epoch, " ended by rank ", rank == kAnyRank ? "" : StrCat(rank, ": "));
  if (status.code() == code && message.find(start) != std::string::npos &&
      message.find(reason) != std::string::npos) {
    return "";
  }
  return StrCat("wanted ", absl::StatusCodeToString(code), " '", start, reason, "', got ",
                status.ToString());
}

}  // namespace facet::worker
