// Why a group of ranks ended: what every call of every rank returns from then on.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace facet::worker {

enum class FaultKind : uint8_t {
  kAborted = 0,   // A rank called Abort, or found that ranks disagree about what they do.
  kDeadline = 1,  // A rank waited for another up to its deadline.
  kLost = 2,      // A rank left, died or fell silent.
};

struct GroupFault {
  FaultKind kind = FaultKind::kAborted;
  int32_t rank = 0;  // Who aborted, was waited for, or is lost.
  int64_t epoch = 0;
  std::string reason;
};

// ABORTED, DEADLINE_EXCEEDED or UNAVAILABLE; the message names rank, epoch and reason.
inline Status StatusOf(const GroupFault& fault) {
  const std::string message =
      StrCat("epoch ", fault.epoch, " ended by rank ", fault.rank, ": ", fault.reason);
  switch (fault.kind) {
    case FaultKind::kAborted:
      return absl::AbortedError(message);
    case FaultKind::kDeadline:
      return absl::DeadlineExceededError(message);
    case FaultKind::kLost:
      return absl::UnavailableError(message);
  }
  return Internal(message);
}

}  // namespace facet::worker
