// Whole files, and digests of them.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace facet {

// NOT_FOUND with the path if the file cannot be opened.
StatusOr<std::string> ReadFile(const std::string& path);

// 64 lower-case hexadecimal digits.
std::string Sha256Hex(std::string_view bytes);

}  // namespace facet
