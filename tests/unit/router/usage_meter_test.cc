#include "router/accounting/usage_meter.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <set>

#include "base/clock.h"
#include "base/log.h"
#include "router/accounting/slo.h"

namespace facet::router {
namespace {

v1::Usage Usage(int tokens, double ttft_ms, double tpot_ms) {
  v1::Usage usage;
  usage.set_prompt_tokens(10);
  usage.set_completion_tokens(tokens);
  usage.set_ttft_ms(ttft_ms);
  usage.set_tpot_ms(tpot_ms);
  usage.set_cost_nano_usd(7);
  return usage;
}

v1::SloConfig Slo() {
  v1::SloConfig slo;
  slo.set_ttft_ms_max(2000);
  slo.set_tpot_ms_max(100);
  return slo;
}

struct SloCase {
  const char* name;
  Status status;
  v1::Usage usage;
  SloResult ttft, tpot, all;
};

TEST(SloTest, EachRequestIsJudgedByWhatItGot) {
  constexpr auto kMet = SloResult::kMet;
  constexpr auto kMissed = SloResult::kMissed;
  constexpr auto kExcluded = SloResult::kExcluded;
  const SloCase cases[] = {
      {"well", absl::OkStatus(), Usage(20, 2000, 100), kMet, kMet, kMet},
      {"late", absl::OkStatus(), Usage(20, 2001, 10), kMissed, kMet, kMissed},
      {"slow", absl::OkStatus(), Usage(20, 10, 100.5), kMet, kMissed, kMissed},
      {"one token has no gap", absl::OkStatus(), Usage(1, 10, 0), kMet, kExcluded, kMet},
      {"never began", Unavailable("x"), Usage(0, 0, 0), kMissed, kExcluded, kMissed},
      {"broke off", Unavailable("x"), Usage(20, 10, 10), kMet, kMet, kMissed},
      {"client erred", InvalidArgument("x"), Usage(0, 0, 0), kExcluded, kExcluded, kExcluded},
      {"client went", absl::CancelledError(), Usage(5, 9999, 1), kExcluded, kExcluded, kExcluded},
  };
  for (const SloCase& one : cases) {
    const SloVerdict verdict = JudgeSlo(one.status, one.usage, Slo());
    EXPECT_EQ(verdict.ttft, one.ttft) << one.name;
    EXPECT_EQ(verdict.tpot, one.tpot) << one.name;
    EXPECT_EQ(verdict.all, one.all) << one.name;
  }
}

TEST(UsageMeterTest, GoodputIsTheTokensOfRequestsThatGotAll) {
  MetricsPage<RouterMetrics> page;
  UsageMeter meter(page, {{"m", Slo()}});
  meter.Record({.model = "m", .tenant = "a", .attempts = 1, .usage = Usage(20, 10, 10)});
  meter.Record({.model = "m", .tenant = "a", .attempts = 1, .usage = Usage(30, 10, 101)});
  auto metrics = page.Write();
  EXPECT_EQ(metrics->goodput_tokens.At("m").value(), 20);
  EXPECT_EQ(metrics->slo_requests.At("m", "all", "met").value(), 1);
  EXPECT_EQ(metrics->slo_requests.At("m", "tpot", "missed").value(), 1);
  EXPECT_EQ(metrics->slo_requests.At("m", "ttft", "met").value(), 2);
}

// Nobody's tokens are lost, whoever comes; a page stays small.
TEST(UsageMeterTest, AHundredThousandTenantsShareAThousandLabels) {
  constexpr int kTenants = 100'000;
  MetricsPage<RouterMetrics> page;
  UsageMeter meter(page, {{"m", Slo()}});
  SetLogLevel(kError);
  for (int i = 0; i < kTenants; ++i) {
    meter.Record(
        {.model = "m", .tenant = StrCat("tenant-", i), .attempts = 1, .usage = Usage(2, 10, 10)});
    meter.ChargeLate("m", StrCat("tenant-", i), 1);
  }
  SetLogLevel(kInfo);
  const int64_t start_ns = Clock::Real().NowNs();
  const size_t bytes = MetricsText(page).size();
  std::printf("%zu bytes in %.1f ms\n", bytes,
              static_cast<double>(Clock::Real().NowNs() - start_ns) / 1e6);
  EXPECT_LE(bytes, 2u << 20);
  auto metrics = page.Write();
  std::set<std::string> tenants;
  int64_t prompt_tokens = 0;
  for (const auto& [labels, cell] : metrics->tokens.cells()) {
    tenants.insert(labels[1]);
    if (labels[2] == "prompt") prompt_tokens += cell.value();
  }
  int64_t nano_usd = 0;
  for (const auto& [labels, cell] : metrics->charged.cells()) nano_usd += cell.value();
  EXPECT_EQ(tenants.size(), 1000u);
  EXPECT_TRUE(tenants.contains("tenant-0") && tenants.contains("other"));
  EXPECT_EQ(prompt_tokens, 10 * kTenants);
  EXPECT_EQ(nano_usd, 8 * kTenants);
  EXPECT_EQ(metrics->label_overflow.At("tenant").value(), 2 * (kTenants - 999));
}

}  // namespace
}  // namespace facet::router
