#include "base/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "metrics_registry.h"

namespace facet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(MetricsTest, NanosecondsAreExportedAsSeconds) {
  MetricsPage<WorkerMetrics> page;
  page.Write()->device_held.At("pool", "m", "cpu", "0").Add(1'500'000'000);
  EXPECT_THAT(
      MetricsText(page),
      HasSubstr(
          R"(facet_device_seconds_total{pool="pool",model="m",device_class="cpu",worker="0"} 1.5)"));
}

TEST(MetricsTest, HistogramBucketsAreCumulativeAndInclusive) {
  MetricsPage<RouterMetrics> page;
  {
    auto metrics = page.Write();
    metrics->ttft.At("m").Observe(0.005);
    metrics->ttft.At("m").Observe(0.006);
    metrics->ttft.At("m").Observe(1000);
  }
  const std::string text = MetricsText(page);
  EXPECT_THAT(text, HasSubstr(R"(_seconds_bucket{model="m",le="0.005"} 1)"));
  EXPECT_THAT(text, HasSubstr(R"(_seconds_bucket{model="m",le="0.01"} 2)"));
  EXPECT_THAT(text, HasSubstr(R"(_seconds_bucket{model="m",le="+Inf"} 3)"));
}

TEST(MetricsTest, LabelSetsBeyondTheBoundShareOneCell) {
  MetricsPage<RouterMetrics> page;
  const size_t bound = CounterFamily::kCellsMax;
  for (size_t i = 0; i < bound + 2; ++i) {
    page.Write()->requests.At(std::to_string(i), "OK").Add(1);
  }
  const std::string text = MetricsText(page);
  EXPECT_THAT(text, HasSubstr(R"(facet_requests_total{model="other",code="other"} 2)"));
  EXPECT_THAT(text, Not(HasSubstr(StrCat("model=\"", bound + 1, "\""))));
}

}  // namespace
}  // namespace facet
