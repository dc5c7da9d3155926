#include "cli/status_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "cli/status_watch.h"
#include "proto/cluster_status.h"

namespace facet {
namespace {

using testing::HasSubstr;
using testing::Not;

v1::GetStatusResponse TwoWorkers() {
  v1::GetStatusResponse status;
  status.set_cluster("demo");
  status.set_version("0.1.0");
  status.set_uptime_seconds(65);
  for (int i = 0; i < 2; ++i) {
    v1::WorkerStatus& worker = *status.add_workers();
    worker.set_pool("cpu");
    worker.set_index(i);
    worker.set_address("127.0.0.1:7170");
    worker.set_model("m");
    worker.set_state(v1::WORKER_STATE_READY);
    worker.set_kv_bytes_used(16 << 20);
    worker.set_kv_bytes_total(64 << 20);
    worker.set_output_tokens_per_second(123.45);
    worker.set_usd_per_mtok_output(0.25);
  }
  return status;
}

TEST(StatusTableTest, EveryLineOfTheBoxIsEquallyWide) {
  std::istringstream table(StatusTable(TwoWorkers(), Paint(true)));
  std::string line;
  std::getline(table, line);
  std::set<int> widths;
  while (std::getline(table, line)) widths.insert(DisplayWidth(line));
  EXPECT_EQ(widths.size(), 1U);
}

TEST(StatusTableTest, ShowsLoadAndCostOfAWorker) {
  const std::string table = StatusTable(TwoWorkers(), Paint(false));
  EXPECT_THAT(table, HasSubstr("cluster demo"));
  EXPECT_THAT(table, HasSubstr("up 1 min 5 s; 2 of 2 workers ready"));
  EXPECT_THAT(table, HasSubstr("cpu/1"));
  EXPECT_THAT(table, HasSubstr("25% of 64.0 MiB"));
  EXPECT_THAT(table, HasSubstr("123.5"));
  EXPECT_THAT(table, HasSubstr("0.250"));
}

TEST(StatusTableTest, HasEscapeCodesOnlyIfPainted) {
  EXPECT_THAT(StatusTable(TwoWorkers(), Paint(true)), HasSubstr("\x1b["));
  EXPECT_THAT(StatusTable(TwoWorkers(), Paint(false)), Not(HasSubstr("\x1b")));
}

TEST(StatusTableTest, AWorkerThatIsNotReadyIsNamedWithItsReason) {
  v1::GetStatusResponse status = TwoWorkers();
  EXPECT_TRUE(CheckReady(status).ok());
  status.mutable_workers(1)->set_state(v1::WORKER_STATE_DEAD);
  status.mutable_workers(1)->set_reason("its stream broke");
  EXPECT_EQ(MessageOf(CheckReady(status)),
            "1 of 2 workers not ready: cpu/1 is dead (its stream broke)");
  EXPECT_THAT(StatusTable(status, Paint(false)), HasSubstr("cpu/1: its stream broke\n"));
}

v1::GetStatusResponse OneGroup() {
  v1::GetStatusResponse status = TwoWorkers();
  for (v1::WorkerStatus& worker : *status.mutable_workers()) {
    worker.set_group("ep2");
    worker.set_rank(worker.index());
    worker.set_num_ranks(2);
    worker.set_group_epoch(3);
  }
  return status;
}

TEST(StatusTableTest, AGroupShowsRanksEpochAndWhatItMayOfItsExperts) {
  v1::GetStatusResponse status = OneGroup();
  EXPECT_THAT(StatusTable(status, Paint(false)), HasSubstr("cpu/1 rank 1"));
  EXPECT_THAT(StatusTable(status, Paint(false)),
              HasSubstr("group ep2  epoch 3, 2 of 2 ranks ready; experts: not told before"));
  // Σ over both ranks' own tokens: 10, 20, 10, 40 by expert; ranks 30 and 50.
  for (const uint64_t choices : {5, 10, 5, 20}) {
    status.mutable_workers(0)->add_expert_choices(choices);
    status.mutable_workers(1)->add_expert_choices(choices);
  }
  EXPECT_THAT(StatusTable(status, Paint(false)),
              HasSubstr("experts ▃▅▃█ busiest 2.00 × mean, busiest rank 1.25 ×"));
}

TEST(StatusTableTest, ASpareIsNoReasonToWait) {
  v1::GetStatusResponse status = OneGroup();
  status.mutable_workers(1)->set_state(v1::WORKER_STATE_SPARE);
  status.mutable_workers(1)->set_reason("waits for a rank");
  EXPECT_TRUE(CheckReady(status).ok());
}

TEST(StatusTableTest, JsonHoldsTheFieldsUnderTheirNames) {
  const auto json = StatusJson(TwoWorkers());
  EXPECT_EQ(json["ready"], true);
  EXPECT_EQ(json["workers"][1]["state"], "ready");
  EXPECT_EQ(json["workers"][0]["kv_bytes_total"], 64 << 20);
}

TEST(TerminalTest, NumbersReadWell) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(67108864), "64.0 MiB");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(CountText(7463013418), "7,463,013,418");
  EXPECT_EQ(CountText(-123456), "-123,456");
  EXPECT_EQ(ShortCountText(7463013418), "7.46 B");
  EXPECT_EQ(DollarText(0), "$0");
  EXPECT_EQ(DollarText(0.00000123), "$0.0000012");
  EXPECT_EQ(DollarText(12.5), "$12.50");
}

TEST(StatusWatchTest, BarsFollowTheAnswersUpToTheirBound) {
  StatusWatch watch(Paint(false));
  v1::GetStatusResponse status = TwoWorkers();
  EXPECT_THAT(watch.Frame(status), HasSubstr("output tok/s  █ 246.9 (highest 246.9)"));
  for (v1::WorkerStatus& worker : *status.mutable_workers()) worker.set_output_tokens_per_second(0);
  EXPECT_THAT(watch.Frame(status), HasSubstr("output tok/s  █▁ 0.0 (highest 246.9)"));
  std::string frame;
  for (size_t i = 0; i < StatusWatch::kBarsMax; ++i) frame = watch.Frame(status);
  EXPECT_THAT(frame, HasSubstr("(highest 0.0)")) << "the first answer is forgotten";
}

TEST(StatusWatchTest, AnErrorIsSaidAndLeavesNoBar) {
  StatusWatch watch(Paint(false));
  EXPECT_EQ(watch.Frame(Unavailable("no router at 127.0.0.1:1")),
            "no status: no router at 127.0.0.1:1\n");
  EXPECT_THAT(watch.Frame(TwoWorkers()), HasSubstr("running       ▁ 0"));
}

}  // namespace
}  // namespace facet
