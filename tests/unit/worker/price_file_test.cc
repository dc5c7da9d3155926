// Prices that change while a worker runs.
#include "worker/service/price_file.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/durable_file.h"
#include "tests/support/temp_directory.h"

namespace facet::worker {
namespace {

std::string Yaml(const std::string& device_class, const std::string& usd_per_hour) {
  return "prices: [{device_class: " + device_class +
         ", dates: [{from: 2026-11-01T00:00:00Z, usd_per_hour: " + usd_per_hour + "}]}]\n";
}

TEST(PriceFileTest, IsReadAgainWhenItChangesAndABrokenOneChangesNothing) {
  constexpr int64_t kBeforeNs = 1'793'491'199'000'000'000;
  constexpr int64_t kAfterNs = 1'793'491'201'000'000'000;
  const testing::TempDirectory directory;
  const std::string path = directory / "prices.yaml";
  ASSERT_TRUE(ReplaceFile(path, Yaml("cpu", "3.6")).ok());
  auto file = PriceFile::Open({.path = path, .device_class = "cpu", .usd_per_hour = 0.5});
  ASSERT_TRUE(file.ok()) << MessageOf(file.status());
  EXPECT_EQ((*file)->prices().NanoUsdPerHourAt(kBeforeNs), 500'000'000) << "the pool's";
  EXPECT_EQ((*file)->prices().NanoUsdPerHourAt(kAfterNs), 3'600'000'000);

  std::vector<int64_t> heard;
  (*file)->SetListener(
      [&](const PriceSchedule& prices) { heard.push_back(prices.NanoUsdPerHourAt(kAfterNs)); });
  (*file)->Refresh();
  ASSERT_TRUE(ReplaceFile(path, Yaml("cpu", "many")).ok());
  (*file)->Refresh();
  EXPECT_TRUE(heard.empty());
  ASSERT_TRUE(ReplaceFile(path, Yaml("cpu", "7.2")).ok());
  (*file)->Refresh();
  (*file)->Refresh();
  ASSERT_TRUE(ReplaceFile(path, Yaml("h200", "7.2")).ok());
  (*file)->Refresh();
  EXPECT_EQ(heard, (std::vector<int64_t>{7'200'000'000, 500'000'000}));
}

TEST(PriceFileTest, WithoutAFileThePoolsPriceHolds) {
  const auto file = PriceFile::Open({.usd_per_hour = 0.5});
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->prices().NanoUsdPerHourAt(0), 500'000'000);
  const auto missing = PriceFile::Open({.path = "/nowhere/prices.yaml"});
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace facet::worker
