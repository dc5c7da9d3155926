// The YAML file of what devices cost, by date.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace facet {

struct PriceFrom {
  int64_t from_unix_ns = 0;
  int64_t nano_usd_per_hour = 0;

  bool operator==(const PriceFrom&) const = default;
};

// By device class, in the order of time.
using DevicePrices = std::map<std::string, std::vector<PriceFrom>, std::less<>>;

// INVALID_ARGUMENT is one sentence with file, line, field and what is wrong.
StatusOr<DevicePrices> ParsePrices(const std::string& yaml, std::string_view file_name);

}  // namespace facet
