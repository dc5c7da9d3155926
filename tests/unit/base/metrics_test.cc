#include "base/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "metrics_registry.h"
#include "tests/support/http_client.h"

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
  for (int i = 0; i < 1002; ++i) page.Write()->requests.At(std::to_string(i), "OK").Add(1);
  const std::string text = MetricsText(page);
  EXPECT_THAT(text, HasSubstr(R"(facet_requests_total{model="other",code="other"} 2)"));
  EXPECT_THAT(text, Not(HasSubstr(R"(model="1001")")));
}

TEST(MetricsTest, ServerAnswersOnThePortItPicked) {
  MetricsPage<RouterMetrics> page;
  auto server = MetricsServer::Start("127.0.0.1:0", page);
  ASSERT_TRUE(server.ok()) << MessageOf(server.status());
  EXPECT_GT((*server)->port(), 0);
  EXPECT_THAT(testing::HttpCall((*server)->port(), "GET", "/livez"), HasSubstr("200 OK"));
  const auto taken = MetricsServer::Start(StrCat("127.0.0.1:", (*server)->port()), page);
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace facet
