// Reads the file of tenants and their API keys, which holds hashes of the keys and no key:
//
//   tenants:
//     - name: acme
//       keys: ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
//
// Keys are long and random, so a plain hash is enough. Two keys of one tenant let it change its key
// without a gap.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "facet/v1/config.pb.h"

namespace facet {

inline constexpr std::string_view kKeyHashPrefix = "sha256:";

// A key as it stands in the file: the prefix and 64 lower-case hexadecimal digits.
std::string KeyHash(std::string_view key);

// Checked whole. An error names file, line, field and why, and never shows what stands in keys: it
// may be a key that was put there by mistake.
StatusOr<v1::TenantsFile> ParseTenants(const std::string& yaml, std::string_view file_name);

}  // namespace facet
