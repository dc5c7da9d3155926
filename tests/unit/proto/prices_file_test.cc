// What devices cost, by date.
#include "proto/prices_file.h"

#include <gtest/gtest.h>

namespace facet {
namespace {

std::string Dates(const std::string& dates) {
  return "prices:\n  - device_class: h100\n    dates:\n" + dates;
}

TEST(PricesFileTest, PricesAreExactAndInstantsAreUtc) {
  const auto prices =
      ParsePrices(Dates("      - {from: 2026-11-01T00:00:00Z, usd_per_hour: 2.10}\n"
                        "      - {from: 2099-01-01T00:00:00.5Z, usd_per_hour: 0.123456789}\n"),
                  "prices.yaml");
  ASSERT_TRUE(prices.ok()) << MessageOf(prices.status());
  const std::vector<PriceFrom> want = {
      {.from_unix_ns = 1'793'491'200'000'000'000, .nano_usd_per_hour = 2'100'000'000},
      {.from_unix_ns = 4'070'908'800'500'000'000, .nano_usd_per_hour = 123'456'789}};
  EXPECT_EQ(prices->at("h100"), want);
}

struct ErrorCase {
  const char* name;
  std::string yaml;
  const char* message;
};

class PricesFileErrorTest : public ::testing::TestWithParam<ErrorCase> {};

TEST_P(PricesFileErrorTest, SaysFileLineFieldAndWhy) {
  const auto prices = ParsePrices(GetParam().yaml, "prices.yaml");
  EXPECT_EQ(prices.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MessageOf(prices.status()), GetParam().message);
}

const ErrorCase kErrors[] = {
    {.name = "local_time",
     .yaml = Dates("      - {from: 2026-11-01T00:00:00+01:00, usd_per_hour: 2}\n"),
     .message = "prices.yaml:4: prices[0].dates[0].from is \"2026-11-01T00:00:00+01:00\"; it must "
                "be an instant in UTC like 2026-11-01T00:00:00Z"},
    {.name = "a_day",
     .yaml = Dates("      - {from: 2026-11-01, usd_per_hour: 2}\n"),
     .message = "prices.yaml:4: prices[0].dates[0].from is \"2026-11-01\"; it must be an instant "
                "in UTC like 2026-11-01T00:00:00Z"},
    {.name = "order",
     .yaml = Dates("      - {from: 2026-11-02T00:00:00Z, usd_per_hour: 2}\n"
                   "      - {from: 2026-11-01T00:00:00Z, usd_per_hour: 2}\n"),
     .message = "prices.yaml:5: prices[0].dates[1].from is 2026-11-01T00:00:00Z, not later than "
                "the one before"},
    {.name = "too_fine",
     .yaml = Dates("      - {from: 2026-11-01T00:00:00Z, usd_per_hour: 0.1234567891}\n"),
     .message = "prices.yaml:4: prices[0].dates[0].usd_per_hour is \"0.1234567891\"; it must be "
                "digits with up to nine after the point, at most 100000"},
    {.name = "negative",
     .yaml = Dates("      - {from: 2026-11-01T00:00:00Z, usd_per_hour: -1}\n"),
     .message = "prices.yaml:4: prices[0].dates[0].usd_per_hour is \"-1\"; it must be digits with "
                "up to nine after the point, at most 100000"},
    {.name = "no_dates",
     .yaml = "prices: [{device_class: h100}]",
     .message = "prices.yaml: prices[0].dates is empty"},
    {.name = "twice",
     .yaml = "prices:\n"
             "  - {device_class: a, dates: [{from: 2026-11-01T00:00:00Z, usd_per_hour: 1}]}\n"
             "  - {device_class: a, dates: [{from: 2026-11-01T00:00:00Z, usd_per_hour: 1}]}\n",
     .message = "prices.yaml:3: prices[1].device_class is a, which stands twice"},
    {.name = "unknown_key",
     .yaml = "price: []",
     .message = "prices.yaml:1: price is not known; known here: prices"},
};

INSTANTIATE_TEST_SUITE_P(All,
                         PricesFileErrorTest,
                         ::testing::ValuesIn(kErrors),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace facet
