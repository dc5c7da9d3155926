// `facet status --watch`: the status table again and again, and how load went since it began.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/terminal.h"
#include "facet/v1/inference.pb.h"

namespace facet {

class StatusWatch {
 public:
  static constexpr size_t kBarsMax = 60;

  explicit StatusWatch(const Paint& paint) : paint_(paint) {}

  // What to print for the next answer: the table and a bar for each of the last answers; for an
  // error, what it is.
  std::string Frame(const StatusOr<v1::GetStatusResponse>& status);

 private:
  struct Point {
    double output_tokens_per_second = 0;
    double requests_running = 0;
    double requests_queued = 0;
    double busy_share = 0;
  };

  std::string Line(const std::string& name, double Point::*value, double scale, int digits) const;

  const Paint paint_;
  std::deque<Point> points_;
};

}  // namespace facet
