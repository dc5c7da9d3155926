// The router's files of usage records, and the accounts that fill them.
#include "router/accounting/usage_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/file.h"
#include "proto/usage_record.h"
#include "router/accounting/open_accounts.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_directory.h"

namespace facet::router {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kDayNs = 86'400'000'000'000;
constexpr int64_t kNoonNs = 20'000 * kDayNs + kDayNs / 2;  // 2024-10-04

v1::UsageRecord Record(const std::string& id, const std::string& by = "worker") {
  v1::UsageRecord record;
  record.set_request_id(id);
  record.set_epoch(1);
  record.set_settled_by(by);
  record.set_decode_nano_usd(5);
  record.set_end_unix_ns(kNoonNs);
  return record;
}

class UsageLedgerTest : public ::testing::Test {
 protected:
  std::unique_ptr<UsageLedger> NewLedger() {
    return std::make_unique<UsageLedger>(
        UsageLedgerOptions{.directory = directory_ / "ledger", .name = "r", .router_id = "id"},
        clock_, metrics_, [this](const UsageLedger::Source& source, const auto& keys) {
          for (const std::string& key : keys) confirmed_.push_back(StrCat(source.worker, ":", key));
        });
  }

  // The lines of the files, all days.
  int64_t NumLines() const {
    int64_t lines = 0;
    for (const auto& file : std::filesystem::directory_iterator(directory_ / "ledger")) {
      const std::string text = *ReadFile(file.path().string());
      lines += std::count(text.begin(), text.end(), '\n');
    }
    return lines;
  }

  testing::TempDirectory directory_;
  testing::FakeClock clock_;
  MetricsPage<RouterMetrics> metrics_;
  std::vector<std::string> confirmed_;
};

TEST_F(UsageLedgerTest, ARecordIsWrittenToItsDayAndThenConfirmed) {
  auto ledger = NewLedger();
  v1::UsageRecord next_day = Record("b");
  next_day.set_end_unix_ns(kNoonNs + kDayNs);
  ledger->Add({Record("a"), next_day}, {.worker = 2, .session = 9});
  EXPECT_FALSE(ledger->Turn());
  v1::UsageRecord written = Record("a");
  written.set_router_id("id");
  EXPECT_EQ(*ReadFile(directory_ / "ledger/usage-r-20241004.jsonl"), UsageLine(written) + "\n");
  EXPECT_TRUE(ReadFile(directory_ / "ledger/usage-r-20241005.jsonl").ok());
  EXPECT_THAT(confirmed_, ElementsAre("2:0/1/a", "2:0/1/b"));
}

TEST_F(UsageLedgerTest, ARecordThatComesTwiceIsWrittenOnceAndConfirmedTwice) {
  auto ledger = NewLedger();
  ledger->Add({Record("a"), Record("a")}, {.worker = 0});
  ledger->Turn();
  ledger->Add({Record("a")}, {.worker = 0});
  ledger->Turn();
  ledger.reset();
  ledger = NewLedger();
  ledger->Add({Record("a")}, {.worker = 0});
  ledger->Turn();
  EXPECT_EQ(NumLines(), 1) << "a new life knows the keys of the files";
  EXPECT_EQ(confirmed_.size(), 4u);
}

TEST_F(UsageLedgerTest, TheWorkersRecordIsWrittenBesideTheRouters) {
  auto ledger = NewLedger();
  ledger->Add({Record("a", "router")}, {});
  ledger->Turn();
  EXPECT_THAT(confirmed_, IsEmpty());
  ledger->Add({Record("a", "router"), Record("a", "worker"), Record("a", "router")}, {.worker = 0});
  ledger->Turn();
  EXPECT_EQ(NumLines(), 2);
  EXPECT_THAT(MetricsText(metrics_),
              HasSubstr("facet_usage_ledger_records_total{source=\"router\"} 1"));
}

TEST_F(UsageLedgerTest, WhileItCannotWriteNothingIsConfirmedAndTheLagGrows) {
  ASSERT_TRUE(ReplaceFile(directory_ / "ledger", "a file, not a directory").ok());
  auto ledger = NewLedger();
  ledger->Add({Record("a")}, {.worker = 0});
  EXPECT_TRUE(ledger->Turn()) << "it will try again";
  EXPECT_THAT(confirmed_, IsEmpty());
  clock_.AdvanceMs(90'000);
  EXPECT_TRUE(ledger->Turn());
  EXPECT_THAT(MetricsText(metrics_), HasSubstr("facet_usage_ledger_lag_seconds 90"));
  std::filesystem::remove(directory_ / "ledger");
  EXPECT_FALSE(ledger->Turn());
  EXPECT_THAT(confirmed_, ElementsAre("0:0/1/a"));
  EXPECT_THAT(MetricsText(metrics_), HasSubstr("facet_usage_ledger_lag_seconds 0"));
}

TEST_F(UsageLedgerTest, WithoutADirectoryEverythingIsConfirmed) {
  UsageLedger ledger({.name = "r"}, clock_, metrics_,
                     [this](const auto&, const auto& keys) { confirmed_ = keys; });
  ledger.Add({Record("a")}, {.worker = 0});
  EXPECT_FALSE(ledger.Turn());
  EXPECT_THAT(confirmed_, ElementsAre("0/1/a"));
}

TEST_F(UsageLedgerTest, ANameHasOneRouterAtATime) {
  auto first = NewLedger();
  first->Turn();
  auto second = NewLedger();
  second->Add({Record("a")}, {.worker = 0});
  EXPECT_TRUE(second->Turn());
  first.reset();
  EXPECT_FALSE(second->Turn());
  EXPECT_EQ(NumLines(), 1);
}

TEST(OpenAccountsTest, AWorkerThatDiesLeavesWhatItHadTold) {
  OpenAccounts accounts;
  for (const char* id : {"a", "b", "settled"}) {
    accounts.Open(/*worker=*/0, /*session=*/id[0] == 'b' ? 2 : 1, Record(id, ""));
  }
  worker::v1::TokenDelta delta;
  delta.set_request_id("a");
  delta.set_epoch(1);
  delta.set_prefill_ns(100);
  delta.set_cost_nano_usd(7);
  accounts.Charge(delta, kNoonNs);
  delta.clear_prefill_ns();
  delta.set_decode_ns(10);
  delta.add_token_ids(1);
  accounts.Charge(delta, kNoonNs + 1);
  accounts.End("a", {.model = "m", .tenant = "t", .epoch = 1, .outcome = "UNAVAILABLE"});
  accounts.End("settled", {.epoch = 1, .outcome = "OK"});
  v1::UsageRecord settled = Record("settled");
  accounts.Settle(settled);
  EXPECT_EQ(settled.outcome(), "OK");

  const auto lost = accounts.TakeLost(0, 1, kNoonNs);
  ASSERT_EQ(lost.size(), 1u) << "one was settled, one is of another session";
  EXPECT_EQ(lost[0].request_id(), "a");
  EXPECT_EQ(lost[0].settled_by(), "router");
  EXPECT_EQ(lost[0].finish(), "lost");
  EXPECT_EQ(lost[0].outcome(), "UNAVAILABLE");
  EXPECT_EQ(lost[0].prefill_ns(), 100);
  EXPECT_EQ(lost[0].prefill_nano_usd(), 7);
  EXPECT_EQ(lost[0].decode_nano_usd(), 5 + 7);
  EXPECT_EQ(lost[0].output_tokens(), 1);
  EXPECT_EQ(lost[0].end_unix_ns(), kNoonNs + 1);
  EXPECT_EQ(accounts.num_open(), 1u);
}

}  // namespace
}  // namespace facet::router
