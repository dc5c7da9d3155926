#include "cli/json_lines.h"

#include <CLI/CLI.hpp>
#include <iostream>

namespace facet {

Status ConvertLines(std::istream& in, std::ostream& out, const LineConverter& convert) {
  size_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const StatusOr<std::string> converted = convert(line);
    if (!converted.ok()) return Annotate(converted.status(), StrCat("line ", number));
    out << *converted << '\n';
  }
  out.flush();
  return out ? absl::OkStatus() : Unavailable("cannot write to standard output");
}

void ExitOnError(std::string_view command, const Status& status) {
  if (status.ok()) return;
  std::cout.flush();
  std::cerr << "facet " << command << ": " << MessageOf(status) << '\n';
  throw CLI::RuntimeError(1);
}

}  // namespace facet
