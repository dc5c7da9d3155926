// Fills a protobuf message from the text of a YAML file by the names of its fields; unknown keys
// are refused by name. What fields mean is checked by whoever reads a file: config_file,
// tenants_file.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace google::protobuf {
class Message;
}

namespace facet {

// Bounds of a number; numbers without a row are ≥ 0 and as large as their type.
struct NumberBound {
  std::string_view field;  // Full name.
  int64_t min = 0;
  int64_t max = 0;
};

// The line of each value, by its path: "tenants[0].keys[1]".
using FieldLines = std::map<std::string, int>;

// INVALID_ARGUMENT is one sentence with file, line, field, value and bound.
StatusOr<FieldLines> ReadYaml(const std::string& yaml,
                              std::string_view file_name,
                              std::span<const NumberBound> bounds,
                              google::protobuf::Message& message);

// A name that may stand in metrics and paths: INVALID_ARGUMENT unless it has 1 to 128 letters,
// digits or any of . _ / -.
Status CheckName(std::string_view field, const std::string& value);

}  // namespace facet
