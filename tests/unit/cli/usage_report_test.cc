// facet usage: what counts, and sums.
#include "cli/usage_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/durable_file.h"
#include "proto/usage_record.h"
#include "tests/support/temp_directory.h"

namespace facet {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kStartNs = 1'793'491'200'000'000'000;  // 2026-11-01, UTC.

v1::UsageRecord Record(const std::string& id, const std::string& tenant, int64_t decode_nano_usd) {
  v1::UsageRecord record;
  record.set_request_id(id);
  record.set_epoch(1);
  record.set_worker_epoch(3);
  record.set_settled_by("worker");
  record.set_tenant(tenant);
  record.set_model("m");
  record.set_prompt_tokens(10);
  record.set_output_tokens(4);
  record.set_prefill_ns(1000);
  record.set_decode_ns(3000);
  record.set_prefill_nano_usd(1);
  record.set_decode_nano_usd(decode_nano_usd);
  (*record.mutable_wasted_ns())["overrun"] = 400;
  record.set_end_unix_ns(kStartNs);
  return record;
}

class UsageReportTest : public ::testing::Test {
 protected:
  void Write(const std::string& file, const std::vector<v1::UsageRecord>& records) {
    std::string lines;
    for (const v1::UsageRecord& record : records) lines += UsageLine(record) + "\n";
    ASSERT_TRUE(AppendLines(directory_ / file, lines).ok());
  }

  UsageRecords ReadAll() const {
    UsageRecords records;
    EXPECT_TRUE(records.Read(directory_.path()).ok());
    return records;
  }

  testing::TempDirectory directory_;
};

TEST_F(UsageReportTest, EachPieceOfWorkCountsOnceAndAsItsWorkerSays) {
  v1::UsageRecord by_router = Record("a", "t", 5);
  by_router.set_settled_by("router");
  Write("usage-one-20261101.jsonl", {by_router, Record("b", "t", 1)});
  Write("usage-two-20261101.jsonl", {Record("a", "t", 9), Record("b", "t", 1)});
  Write("worker-p-0.jsonl", {Record("not a ledger", "t", 100)});
  const UsageReport report = SumUsage(ReadAll(), {.by = {"tenant"}});
  EXPECT_EQ(report.total.requests, 2);
  EXPECT_EQ(report.total.nano_usd, (1 + 9) + (1 + 1));
  EXPECT_EQ(report.total.wasted_ns, 800);
}

TEST_F(UsageReportTest, RowsSplitTheTotal) {
  Write("usage-r-20261101.jsonl", {Record("a", "x", 5), Record("b", "y", 7), Record("c", "y", 8)});
  const UsageQuery query{.by = {"tenant", "phase"}};
  const UsageReport report = SumUsage(ReadAll(), query);
  ASSERT_EQ(report.rows.size(), 4u);
  EXPECT_EQ(report.rows.at({"y", "decode"}).nano_usd, 15);
  EXPECT_EQ(report.rows.at({"y", "prefill"}).nano_usd, 2);
  EXPECT_EQ(report.rows.at({"y", "prefill"}).prompt_tokens, 20);
  int64_t sum = 0;
  for (const auto& [values, row] : report.rows) sum += row.nano_usd;
  EXPECT_EQ(sum, report.total.nano_usd);
  EXPECT_THAT(UsageTable(report, query),
              HasSubstr("total                    3             30             12  0.000012000  "
                        "0.000000023  10.0%\n"));
  EXPECT_THAT(UsageJsonLines(report, query),
              HasSubstr(R"({"tenant":"x","phase":"decode","requests":1,"prompt_tokens":0,)"
                        R"("output_tokens":4,"device_ns":3000,"nano_usd":5,"usd":"0.000000005"})"));
}

TEST_F(UsageReportTest, TheEndDecidesTheTimeAndToIsNotIncluded) {
  v1::UsageRecord later = Record("b", "t", 1);
  later.set_end_unix_ns(*ParseInstant("--to", "2026-11-02"));
  Write("usage-r-20261101.jsonl", {Record("a", "t", 1), later});
  UsageQuery query{.from_unix_ns = *ParseInstant("--from", "2026-11-01T00:00:00Z")};
  EXPECT_EQ(SumUsage(ReadAll(), query).total.requests, 2);
  query.to_unix_ns = *ParseInstant("--to", "2026-11-02");
  EXPECT_EQ(SumUsage(ReadAll(), query).total.requests, 1);
}

TEST_F(UsageReportTest, ErrorsNameTheFlagOrTheLine) {
  EXPECT_EQ(MessageOf(ParseInstant("--from", "yesterday").status()),
            "--from is \"yesterday\"; it must be a day like 2026-11-01 or an instant like "
            "2026-11-01T12:00:00Z");
  EXPECT_THAT(MessageOf(CheckUsageKeys({"tenant", "colour"})), HasSubstr("--by has \"colour\""));
  ASSERT_TRUE(AppendLines(directory_ / "usage-r-20261101.jsonl",
                          UsageLine(Record("a", "t", 1)) + "\n{\"epoch\":\"one\"}\n")
                  .ok());
  UsageRecords records;
  EXPECT_EQ(
      MessageOf(records.Read(directory_.path())),
      directory_.path() + "/usage-r-20261101.jsonl:2: epoch is \"one\", which is of another type");
  EXPECT_EQ(records.Read(directory_ / "none").code(), absl::StatusCode::kNotFound);
}

TEST(UsageRecordTest, ALineKeepsEveryField) {
  v1::UsageRecord record = Record("a \"quoted\" id", "t", INT64_MAX);
  record.set_worker_epoch(UINT64_MAX);
  record.set_outcome("OK");
  const StatusOr<v1::UsageRecord> read = ParseUsageLine(UsageLine(record));
  ASSERT_TRUE(read.ok()) << MessageOf(read.status());
  EXPECT_EQ(UsageLine(*read), UsageLine(record));
  EXPECT_TRUE(ParseUsageLine(R"({"request_id":"a","of_a_newer_version":1})").ok());
  EXPECT_FALSE(ParseUsageLine("[]").ok());
}

}  // namespace
}  // namespace facet
