#include "proto/prices_file.h"

#include <algorithm>
#include <optional>

#include "absl/time/time.h"
#include "facet/v1/config.pb.h"
#include "proto/yaml_reader.h"

namespace facet {
namespace {

constexpr int64_t kNanoPerUsd = 1'000'000'000;
constexpr int64_t kUsdPerHourMax = 100'000;

// Exactly what the digits say; a double would round.
std::optional<int64_t> NanoUsdOf(std::string_view text) {
  const size_t point = std::min(text.find('.'), text.size());
  const std::string_view whole = text.substr(0, point);
  const std::string_view fraction = point == text.size() ? "" : text.substr(point + 1);
  const auto is_digits = [](std::string_view digits) {
    return digits.find_first_not_of("0123456789") == std::string_view::npos;
  };
  if (whole.empty() || whole.size() > 6 || fraction.size() > 9 || !is_digits(whole) ||
      !is_digits(fraction) || (point != text.size() && fraction.empty())) {
    return std::nullopt;
  }
  int64_t nano = 0;
  std::string digits(whole);
  digits.append(fraction).append(9 - fraction.size(), '0');
  for (const char digit : digits) nano = 10 * nano + (digit - '0');
  if (nano > kUsdPerHourMax * kNanoPerUsd) return std::nullopt;
  return nano;
}

std::optional<int64_t> UnixNsOf(const std::string& text) {
  absl::Time time;
  std::string error;
  if (!text.ends_with('Z') || !absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return std::nullopt;
  }
  return absl::ToUnixNanos(time);
}

}  // namespace

StatusOr<DevicePrices> ParsePrices(const std::string& yaml, std::string_view file_name) {
  v1::PricesFile file;
  FACET_ASSIGN_OR_RETURN(const FieldLines lines, ReadYaml(yaml, file_name, {}, file));
  const auto error = [&](const std::string& path, const auto&... what) {
    const auto line = lines.find(path);
    return InvalidArgument(file_name, line == lines.end() ? "" : StrCat(":", line->second), ": ",
                           path, what...);
  };
  DevicePrices prices;
  for (int i = 0; i < file.prices_size(); ++i) {
    const v1::DevicePrices& device = file.prices(i);
    const std::string path = StrCat("prices[", i, "]");
    if (device.device_class().empty()) return error(path + ".device_class", " is missing");
    if (prices.contains(device.device_class())) {
      return error(path + ".device_class", " is ", device.device_class(), ", which stands twice");
    }
    std::vector<PriceFrom>& dates = prices[device.device_class()];
    if (device.dates().empty()) return error(path + ".dates", " is empty");
    for (int j = 0; j < device.dates_size(); ++j) {
      const v1::DatedPrice& date = device.dates(j);
      const std::string date_path = StrCat(path, ".dates[", j, "]");
      const std::optional<int64_t> from = UnixNsOf(date.from());
      if (!from) {
        return error(date_path + ".from", " is \"", date.from(),
                     "\"; it must be an instant in UTC like 2026-11-01T00:00:00Z");
      }
      if (!dates.empty() && *from <= dates.back().from_unix_ns) {
        return error(date_path + ".from", " is ", date.from(), ", not later than the one before");
      }
      const std::optional<int64_t> price = NanoUsdOf(date.usd_per_hour());
      if (!price) {
        return error(date_path + ".usd_per_hour", " is \"", date.usd_per_hour(),
                     "\"; it must be digits with up to nine after the point, at most ",
                     kUsdPerHourMax);
      }
      dates.push_back({.from_unix_ns = *from, .nano_usd_per_hour = *price});
    }
  }
  return prices;
}

}  // namespace facet
