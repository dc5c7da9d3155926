// Commands that turn lines of JSON on standard input into lines of JSON on standard output.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>
#include <string_view>

#include "base/status.h"

namespace facet {

using LineConverter = std::function<StatusOr<std::string>(const std::string& line)>;

// Converts line by line, skipping empty ones, and stops at the first that fails: the error begins
// with its number.
Status ConvertLines(std::istream& in, std::ostream& out, const LineConverter& convert);

// Ends a command: prints "facet COMMAND: message" on standard error and throws CLI::RuntimeError if
// status is an error.
void ExitOnError(std::string_view command, const Status& status);

}  // namespace facet
