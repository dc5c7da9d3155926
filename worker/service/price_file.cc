#include "worker/service/price_file.h"

#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "proto/prices_file.h"

namespace facet::worker {

StatusOr<std::unique_ptr<PriceFile>> PriceFile::Open(Options options) {
  std::unique_ptr<PriceFile> file(new PriceFile(std::move(options)));
  file->prices_ = PriceSchedule(file->options_.usd_per_hour);
  if (file->options_.path.empty()) return file;
  FACET_ASSIGN_OR_RETURN(const std::string text, ReadFile(file->options_.path));
  FACET_ASSIGN_OR_RETURN(file->prices_, file->Read(text));
  file->follower_.emplace(file->options_.path, text,
                          [it = file.get()](const auto& changed) { it->OnChange(changed); });
  return file;
}

StatusOr<PriceSchedule> PriceFile::Read(const std::string& text) const {
  FACET_ASSIGN_OR_RETURN(const DevicePrices classes, ParsePrices(text, options_.path));
  const auto found = classes.find(options_.device_class);
  if (found == classes.end()) {
    Log(kWarning, "prices file lacks the device class, the pool's price_usd_per_hour holds",
        {{"file", options_.path},
         {"device_class", options_.device_class},
         {"price_usd_per_hour", options_.usd_per_hour}});
    return PriceSchedule(options_.usd_per_hour);
  }
  std::vector<DatedPrice> dates = PriceSchedule(options_.usd_per_hour).prices();
  for (const PriceFrom& price : found->second) {
    dates.push_back(
        {.from_unix_ns = price.from_unix_ns, .nano_usd_per_hour = price.nano_usd_per_hour});
  }
  return PriceSchedule::Create(std::move(dates));
}

void PriceFile::OnChange(const StatusOr<std::string>& text) const {
  StatusOr<PriceSchedule> prices = text.ok() ? Read(*text) : text.status();
  if (!prices.ok()) {
    Log(kWarning, "prices file refused, the prices stay as they were",
        {{"cause", MessageOf(prices.status())}});
    return;
  }
  Log(kInfo, "prices file read again",
      {{"device_class", options_.device_class}, {"dates", prices->prices().size() - 1}});
  if (on_change_) on_change_(*std::move(prices));
}

}  // namespace facet::worker
