#include "router/token_log.h"

#include <gtest/gtest.h>

namespace facet::router {
namespace {

using Fit = TokenLog::Fit;

struct LogCase {
  std::string name;
  uint32_t epoch = 0;
  uint32_t first_position = 0;
  std::vector<int32_t> ids;
  Fit want = Fit::kFits;
};

class TokenLogTest : public ::testing::TestWithParam<LogCase> {};

// The log is in epoch 2, holds three tokens and has room for two more.
TEST_P(TokenLogTest, AppendsWhatFitsAndNothingElse) {
  TokenLog log(/*tokens_max=*/5);
  log.BeginEpoch();
  ASSERT_EQ(log.Append(1, 0, std::vector<int32_t>{7, 8, 9}), Fit::kFits);
  log.BeginEpoch();
  const LogCase& row = GetParam();
  EXPECT_EQ(log.Append(row.epoch, row.first_position, row.ids), row.want);
  EXPECT_EQ(log.size(), row.want == Fit::kFits ? 3 + static_cast<int32_t>(row.ids.size()) : 3);
}

const LogCase kLogCases[] = {
    {.name = "next_tokens", .epoch = 2, .first_position = 3, .ids = {1, 2}},
    {.name = "no_tokens_at_any_place", .epoch = 2, .first_position = 0, .ids = {}},
    {.name = "older_attempt",
     .epoch = 1,
     .first_position = 3,
     .ids = {1},
     .want = Fit::kOtherEpoch},
    {.name = "later_attempt",
     .epoch = 3,
     .first_position = 3,
     .ids = {1},
     .want = Fit::kOtherEpoch},
    {.name = "gap", .epoch = 2, .first_position = 4, .ids = {1}, .want = Fit::kWrongPosition},
    {.name = "repeat", .epoch = 2, .first_position = 2, .ids = {9}, .want = Fit::kWrongPosition},
    {.name = "beyond_the_limit",
     .epoch = 2,
     .first_position = 3,
     .ids = {1, 2, 3},
     .want = Fit::kWrongPosition},
};

INSTANTIATE_TEST_SUITE_P(All, TokenLogTest, ::testing::ValuesIn(kLogCases), [](const auto& row) {
  return row.param.name;
});

}  // namespace
}  // namespace facet::router
