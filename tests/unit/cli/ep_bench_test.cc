#include "cli/ep_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

namespace facet {
namespace {

using testing::HasSubstr;

TEST(EpBenchTest, BytesArePaddedBlocksBesideTheRowsThatAreNeeded) {
  for (const int ranks : {1, 2, 4}) {
    const StatusOr<EpBenchReport> report =
        RunEpBench({.ranks = ranks, .comm = "local", .tokens = 3, .layers = 2});
    ASSERT_TRUE(report.ok()) << report.status();
    // Hidden state, 8 ids and weights, already a multiple of 64 bytes; and a line for the count.
    const int64_t row = 2816 * 2 + 8 * 8;
    EXPECT_EQ(report->dispatch_bytes, int64_t{ranks} * (ranks - 1) * (64 + 3 * row));
    EXPECT_EQ(report->combine_bytes, int64_t{ranks} * (ranks - 1) * 3 * (8 / ranks) * 2816 * 2);
    EXPECT_LE(report->dispatch_bytes_min, report->dispatch_bytes);
    EXPECT_LE(report->combine_bytes_min, report->combine_bytes);
    EXPECT_EQ(report->dispatch_bytes_min % row, 0);
    EXPECT_EQ(report->dispatch_bytes_min > 0, ranks > 1);
    ASSERT_EQ(report->forms.size(), 2U);
    EXPECT_GT(report->forms[0].dispatch_us, 0);
    EXPECT_GT(report->forms[1].combine_us, 0);
  }
}

TEST(EpBenchTest, WhatCannotBeMeasuredIsRefusedByName) {
  const auto error = [](const EpBenchOptions& options) {
    return MessageOf(RunEpBench(options).status());
  };
  EXPECT_THAT(error({.ranks = 3}), HasSubstr("--ranks is 3"));
  EXPECT_THAT(error({.comm = "carrier pigeon"}), HasSubstr("--comm is carrier pigeon"));
  EXPECT_THAT(error({.tokens = 0}), HasSubstr("--tokens is 0"));
  EXPECT_THAT(error({.layers = -1}), HasSubstr("--layers is -1"));
}

TEST(EpBenchTest, JsonHoldsWhatTheTableShows) {
  const EpBenchReport report{.dispatch_bytes = 4,
                             .dispatch_bytes_min = 3,
                             .combine_bytes = 2,
                             .combine_bytes_min = 1,
                             .chosen_form = "all-gather",
                             .forms = {{"all-to-all", 1.5, 2.5}, {"all-gather", 3.5, 4.5}}};
  const auto json = nlohmann::json::parse(EpBenchJson({.ranks = 2}, report));
  EXPECT_EQ(json["dispatch_bytes"], 4);
  EXPECT_EQ(json["combine_bytes_min"], 1);
  EXPECT_EQ(json["chosen_form"], "all-gather");
  EXPECT_EQ(json["forms"][1]["combine_us"], 4.5);
}

}  // namespace
}  // namespace facet
