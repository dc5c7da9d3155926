// absl::Status ↔ grpc::Status, the only place where one becomes the other.
//
// Details travel as payloads of the absl::Status: WithReason, WithRetryAfter and WithField attach
// them, and on the wire they are google.rpc.ErrorInfo, RetryInfo and BadRequest inside the
// google.rpc.Status of grpc-status-details-bin. An error without a reason gets its code's name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace grpc {
class Status;
}

namespace facet {

inline constexpr std::string_view kErrorDomain = "facet.dev";

grpc::Status ToGrpcStatus(const Status& status);

// Keeps code, message and all details.
Status FromGrpcStatus(const grpc::Status& status);

// reason is UPPER_SNAKE_CASE: what a program switches on.
Status WithReason(Status status, std::string_view reason);

// The client may send the same request again after so long.
Status WithRetryAfter(Status status, int64_t retry_after_ms);

// The request field that is wrong, as the client names it; the description is the message.
Status WithField(Status status, std::string_view field);

// Empty if there is none.
std::string ReasonOf(const Status& status);
std::string FieldOf(const Status& status);

std::optional<int64_t> RetryAfterMsOf(const Status& status);

// "INVALID_ARGUMENT" and so on.
std::string CodeName(absl::StatusCode code);

}  // namespace facet
