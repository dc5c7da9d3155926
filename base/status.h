// absl::Status with the few helpers we use everywhere.
#pragma once

#include <sstream>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace facet {

using absl::Status;
using absl::StatusOr;

// Concatenates anything streamable: StrCat("new_tokens_max is ", n, "; at most ", m, " fit").
template <typename... Parts>
std::string StrCat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <typename... Parts>
Status InvalidArgument(const Parts&... parts) {
  return absl::InvalidArgumentError(StrCat(parts...));
}

template <typename... Parts>
Status NotFound(const Parts&... parts) {
  return absl::NotFoundError(StrCat(parts...));
}

template <typename... Parts>
Status FailedPrecondition(const Parts&... parts) {
  return absl::FailedPreconditionError(StrCat(parts...));
}

template <typename... Parts>
Status ResourceExhausted(const Parts&... parts) {
  return absl::ResourceExhaustedError(StrCat(parts...));
}

template <typename... Parts>
Status Unavailable(const Parts&... parts) {
  return absl::UnavailableError(StrCat(parts...));
}

template <typename... Parts>
Status Internal(const Parts&... parts) {
  return absl::InternalError(StrCat(parts...));
}

inline std::string MessageOf(const Status& status) { return std::string(status.message()); }

// The same code, with `context: ` before the message.
inline Status Annotate(const Status& status, std::string_view context) {
  return Status(status.code(), StrCat(context, ": ", MessageOf(status)));
}

}  // namespace facet

#define FACET_CONCAT_INNER(a, b) a##b
#define FACET_CONCAT(a, b) FACET_CONCAT_INNER(a, b)

#define FACET_RETURN_IF_ERROR(expression)                                                     \
  do {                                                                                        \
    if (::facet::Status facet_status = (expression); !facet_status.ok()) return facet_status; \
  } while (false)

// A declaration cannot stand in parentheses.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define FACET_ASSIGN_OR_RETURN(declaration, expression) \
  FACET_ASSIGN_OR_RETURN_IMPL(FACET_CONCAT(facet_status_or_, __LINE__), declaration, expression)
#define FACET_ASSIGN_OR_RETURN_IMPL(temporary, declaration, expression) \
  auto temporary = (expression);                                        \
  if (!temporary.ok()) return std::move(temporary).status();            \
  declaration = std::move(temporary).value()
// NOLINTEND(bugprone-macro-parentheses)
