// facet keys: keys that tenants send with their requests.
#pragma once

#include <CLI/CLI.hpp>
#include <ostream>
#include <string>

#include "base/status.h"

namespace facet {

// Draws a key and writes it, and the line of the tenants file that lets it in. The key stands
// nowhere else and cannot be had again. INVALID_ARGUMENT names a tenant that cannot be one.
Status WriteNewKey(const std::string& tenant, std::ostream& out);

void AddKeysCommand(CLI::App& app);

}  // namespace facet
