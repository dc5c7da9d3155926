#include "worker/service/worker_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/metrics.h"

namespace facet::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(WorkerMetricsPageTest, ExportsEveryStateOfTheEngineAsItIsAtTheScrape) {
  WorkerMetricsPage page;
  EXPECT_THAT(MetricsText(page), Not(HasSubstr("state=")));

  EngineStats stats;
  page.Follow([&stats] { return stats; }, [] { return UsageJournalStats{}; },
              {.pool = "p", .model = "m", .device_class = "cpu", .worker = "p/0"});
  const std::string labels = R"({pool="p",model="m",device_class="cpu",worker="p/0",state=)";
  for (const char* state :
       {"loading", "idle", "prefill", "decode", "mixed", "assist", "drain", "fault"}) {
    EXPECT_THAT(MetricsText(page), HasSubstr(labels + "\"" + state + "\"} 0\n"));
  }
  stats.states[static_cast<int>(DeviceState::kIdle)] = {.ns = 2'000'000'000, .nano_usd = 2'000'000};
  EXPECT_THAT(MetricsText(page), HasSubstr(labels + "\"idle\"} 2\n"));
  EXPECT_THAT(MetricsText(page), HasSubstr(R"(reason="no_demand"} 0.002)"));

  page.Unfollow();
  EXPECT_THAT(MetricsText(page), Not(HasSubstr("state=")));
}

}  // namespace
}  // namespace facet::worker
