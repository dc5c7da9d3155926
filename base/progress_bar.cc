#include "base/progress_bar.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace facet {

ProgressBar::ProgressBar(std::string title)
    : title_(std::move(title)),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_ns_(Clock::Real().NowNs()) {}

ProgressBar::~ProgressBar() {
  if (terminal_ && last_percent_ >= 0) std::fputc('\n', stderr);
}

void ProgressBar::Update(int64_t bytes_done, int64_t bytes_total) {
  const int percent = bytes_total == 0 ? 100 : static_cast<int>(bytes_done * 100 / bytes_total);
  if (percent == last_percent_) return;
  const int previous = std::exchange(last_percent_, percent);
  const double seconds = static_cast<double>(Clock::Real().NowNs() - start_ns_) / 1e9;
  const double gigabytes = static_cast<double>(bytes_done) / 1e9;
  if (terminal_) {
    const int filled = percent * 30 / 100;
    std::fprintf(stderr, "\r%s [%.*s%*s] %3d %%  %.2f GB, %.1f s", title_.c_str(), filled,
                 "##############################", 30 - filled, "", percent, gigabytes, seconds);
    std::fflush(stderr);
  } else if (percent / 10 != previous / 10 || percent == 100) {
    Log(kInfo, title_, {{"percent", percent}, {"gigabytes", gigabytes}, {"seconds", seconds}});
  }
}

}  // namespace facet
