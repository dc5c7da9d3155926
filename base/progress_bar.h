// Progress of something long, on standard error: a bar on a terminal, a log line every tenth
// elsewhere.
#pragma once

#include <cstdint>
#include <string>

namespace facet {

class ProgressBar {
 public:
  // title: "loading gemma-4-e4b".
  explicit ProgressBar(std::string title);
  ~ProgressBar();

  void Update(int64_t bytes_done, int64_t bytes_total);

 private:
  const std::string title_;
  const bool terminal_;
  const int64_t start_ns_;
  int last_percent_ = -1;
};

}  // namespace facet
