#include "cli/status_watch.h"

#include <algorithm>

#include "cli/status_table.h"
#include "proto/cluster_status.h"

namespace facet {

std::string StatusWatch::Frame(const StatusOr<v1::GetStatusResponse>& status) {
  if (!status.ok()) {
    return paint_(Colour::kRed, "no status: " + MessageOf(status.status())) + "\n";
  }
  Point point{.requests_running = static_cast<double>(status->requests_running()),
              .requests_queued = static_cast<double>(status->requests_queued())};
  for (const v1::WorkerStatus& worker : status->workers()) {
    point.output_tokens_per_second += worker.output_tokens_per_second();
    point.busy_share += worker.busy_share() / status->workers_size();
  }
  points_.push_back(point);
  if (points_.size() > kBarsMax) points_.pop_front();
  return StatusTable(*status, paint_) + "\n" +
         Line("output tok/s", &Point::output_tokens_per_second, 1, 1) +
         Line("running", &Point::requests_running, 1, 0) +
         Line("queued", &Point::requests_queued, 1, 0) + Line("busy %", &Point::busy_share, 100, 0);
}

std::string StatusWatch::Line(const std::string& name,
                              double Point::*value,
                              double scale,
                              int digits) const {
  constexpr size_t kNameWidth = 14;
  std::vector<double> values;
  for (const Point& point : points_) values.push_back(point.*value * scale);
  const double largest = *std::max_element(values.begin(), values.end());
  return name + std::string(kNameWidth - name.size(), ' ') +
         paint_(Colour::kCyan, Sparkline(values)) +
         StrCat(" ", FixedText(values.back(), digits), " (highest ", FixedText(largest, digits),
                ")\n");
}

}  // namespace facet
