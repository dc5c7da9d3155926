#include "base/process_stats.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ctime>
#include <string>

#include "metrics_registry.h"

namespace facet {
namespace {

TEST(ProcessStatsTest, MemoryIsWhatIsTouchedAndHasALimit) {
  const ProcessStats before = ReadProcessStats();
  const std::string touched(64 << 20, 'x');
  const ProcessStats after = ReadProcessStats();
  EXPECT_GT(before.resident_bytes, 0);
  EXPECT_GE(after.resident_bytes - before.resident_bytes, 60 << 20) << touched.size();
  EXPECT_GT(after.memory_limit_bytes, after.resident_bytes);
  EXPECT_LE(after.memory_limit_bytes, sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) + (1 << 20));
}

TEST(ProcessStatsTest, ProcessorTimeIsTheKernels) {
  const int64_t before = ReadProcessStats().cpu_ns;
  rusage usage{};
  ASSERT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  const int64_t kernels = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1'000'000'000 +
                          (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
  EXPECT_LE(before, kernels + 20'000'000);
  EXPECT_GE(ReadProcessStats().cpu_ns, kernels - 20'000'000);
}

TEST(ProcessStatsTest, TheStartLiesInTheLastMinutesAndStays) {
  const double start = ReadProcessStats().start_unix_seconds;
  const auto now = static_cast<double>(time(nullptr));
  EXPECT_GT(start, now - 600);
  EXPECT_LE(start, now + 1);
  EXPECT_EQ(ReadProcessStats().start_unix_seconds, start);
}

TEST(ProcessStatsTest, ReportsSetEveryMetricAndCountOnce) {
  RouterMetrics metrics;
  ReportProcess("router", ReadProcessStats(), metrics);
  ReportProcess("router", ReadProcessStats(), metrics);
  EXPECT_EQ(metrics.build_info.At(kVersion).value(), 1);
  EXPECT_GT(metrics.process_memory.At("router").value(), 0);
  EXPECT_GT(metrics.process_memory_limit.At("router").value(), 0);
  EXPECT_GT(metrics.process_start.At("router").value(), 0);
  EXPECT_GT(metrics.process_cpu.At("router").value(), 0);
  EXPECT_LE(metrics.process_cpu.At("router").value(), ReadProcessStats().cpu_ns);
}

}  // namespace
}  // namespace facet
