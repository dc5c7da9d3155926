// What the process itself takes, as the kernel sees it.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/version.h"

namespace facet {

struct ProcessStats {
  // Without pages of files, which the kernel can take back.
  int64_t resident_bytes = 0;
  // Of its control group, or all that the machine has.
  int64_t memory_limit_bytes = 0;
  int64_t cpu_ns = 0;  // Of all threads since the start, user's and kernel's.
  double start_unix_seconds = 0;
};

// From /proc and /sys; what cannot be read there is 0.
ProcessStats ReadProcessStats();

// Sets the metrics that all programs have; for each scrape. program is the label. Files are not
// read here, since metrics may be locked.
template <typename Metrics>
void ReportProcess(std::string_view program, const ProcessStats& stats, Metrics& metrics) {
  metrics.build_info.At(kVersion).Set(1);
  metrics.process_memory.At(program).Set(static_cast<double>(stats.resident_bytes));
  metrics.process_memory_limit.At(program).Set(static_cast<double>(stats.memory_limit_bytes));
  metrics.process_start.At(program).Set(stats.start_unix_seconds);
  auto& cpu = metrics.process_cpu.At(program);
  cpu.Add(stats.cpu_ns - cpu.value());
}

}  // namespace facet
