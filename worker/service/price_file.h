// The prices of one worker's device, from the cluster's prices file, which is read again when it
// changes.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/file_follower.h"
#include "base/status.h"
#include "worker/engine/price.h"

namespace facet::worker {

class PriceFile {
 public:
  struct Options {
    std::string path;  // Empty: there is no file.
    std::string device_class;
    double usd_per_hour = 0;  // Before the first date, and where the file has no such class.
  };

  // An error is ReadFile's or ParsePrices'.
  static StatusOr<std::unique_ptr<PriceFile>> Open(Options options);

  const PriceSchedule& prices() const { return prices_; }

  // on_change will hear of new prices. A file that is broken leaves them as they are, with a line
  // in the log.
  void SetListener(std::function<void(PriceSchedule prices)> on_change) {
    on_change_ = std::move(on_change);
  }

  // From now on a thread calls Refresh each second, if there is a file, and nobody else does.
  void Follow() {
    if (follower_) follower_->Follow();
  }

  // Reads the file again.
  void Refresh() { follower_->Refresh(); }

 private:
  explicit PriceFile(Options options) : options_(std::move(options)) {}

  StatusOr<PriceSchedule> Read(const std::string& text) const;
  void OnChange(const StatusOr<std::string>& text) const;

  const Options options_;
  PriceSchedule prices_;  // As read at first.
  std::function<void(PriceSchedule prices)> on_change_;
  std::optional<FileFollower> follower_;  // Last: its thread uses the others.
};

}  // namespace facet::worker
