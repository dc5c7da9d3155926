// Prices with dates, and that money adds up however time was cut.
#include "worker/engine/price.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/fake_clock.h"
#include "worker/engine/engine_stats.h"

namespace facet::test {
namespace {

using worker::CostMeter;
using worker::DatedPrice;
using worker::DeviceState;
using worker::EngineStats;
using worker::PriceSchedule;
using worker::Spent;

constexpr int64_t kHourNs = 3'600'000'000'000;

TEST(PriceScheduleTest, AnEntryHoldsFromItsInstantOn) {
  const PriceSchedule prices =
      *PriceSchedule::Create({{.nano_usd_per_hour = 5}, {100, 7}, {200, 0}});
  EXPECT_EQ(prices.NanoUsdPerHourAt(-1), 5);
  EXPECT_EQ(prices.NanoUsdPerHourAt(99), 5);
  EXPECT_EQ(prices.NanoUsdPerHourAt(100), 7);
  EXPECT_EQ(prices.NanoUsdPerHourAt(1 << 30), 0);
  EXPECT_EQ(static_cast<int64_t>(prices.Integral(90, 250)), 10 * 5 + 100 * 7);
  EXPECT_EQ(PriceSchedule(0.25).NanoUsdPerHourAt(0), 250'000'000);
}

TEST(PriceScheduleTest, RefusesWhatIsNoSchedule) {
  struct Case {
    std::vector<DatedPrice> prices;
    std::string message;
  };

  const Case cases[] = {
      {{}, "the first price must hold from the beginning of time"},
      {{{5, 1}}, "the first price must hold from the beginning of time"},
      {{{.nano_usd_per_hour = -1}},
       "prices[0] is -1 nano-USD per hour; it must be from 0 to 1000000000000000000"},
      {{{.nano_usd_per_hour = 1}, {7, 1}, {7, 2}},
       "prices[2] holds from 7 ns; it must be later than the one before, from 7 ns"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(MessageOf(PriceSchedule::Create(c.prices).status()), c.message);
  }
}

TEST(CostMeterTest, SpansCostTogetherWhatTheWholeDoes) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 1000; ++round) {
    std::vector<DatedPrice> dated = {{.nano_usd_per_hour = int64_t(random() % 1'000'000'000'000)}};
    int64_t instant = 0;
    while (random() % 4 != 0) {
      instant += 1 + static_cast<int64_t>(random() % kHourNs);
      dated.push_back({instant, static_cast<int64_t>(random() % 1'000'000'000'000)});
    }
    const PriceSchedule prices = *PriceSchedule::Create(dated);
    CostMeter pieces;
    int64_t at = -100;
    int64_t sum = 0;
    while (at < instant + kHourNs) {
      const auto next = at + static_cast<int64_t>(random() % kHourNs);
      sum += pieces.Add(prices, at, next);
      at = next;
    }
    CostMeter whole;
    EXPECT_EQ(whole.Add(prices, -100, at), sum) << round;
    EXPECT_EQ(pieces.total(), sum) << round;
  }
}

// A price of one nano-USD each nanosecond, then of two: money can be read off the clock.
TEST(StatsBoardTest, AChangeOfPriceSplitsAStepAndAnIdleSpanAtItsInstant) {
  testing::FakeClock clock;
  const int64_t start = clock.UnixNs();
  worker::StatsBoard board(*PriceSchedule::Create({{.nano_usd_per_hour = kHourNs},
                                                   {start + 3'000'000, 2 * kHourNs},
                                                   {start + 10'000'000, kHourNs}}),
                           clock);
  board.EndLoading();
  clock.AdvanceMs(2);
  board.StepBegins();
  clock.AdvanceMs(2);
  Spent step;
  board.StepEnds(DeviceState::kDecode, 2'000'000, /*another_in_flight=*/false,
                 [&](EngineStats&, const Spent& spent) { step = spent; });
  EXPECT_EQ(step, (Spent{.ns = 2'000'000, .nano_usd = 3'000'000}));
  clock.AdvanceMs(7);
  const EngineStats stats = board.Snapshot();
  EXPECT_EQ(stats.states[static_cast<int>(DeviceState::kIdle)],
            (Spent{.ns = 9'000'000, .nano_usd = 2'000'000 + 12'000'000 + 1'000'000}));
  EXPECT_EQ(stats.nano_usd_per_hour, kHourNs);
}

// The engine hears of the end of its own step when the next one, of another rank, runs already.
TEST(StatsBoardTest, AnAssistAndAnOwnStepThatOverlapGetTheirTime) {
  testing::FakeClock clock;
  worker::StatsBoard board(PriceSchedule(3.6), clock);
  board.EndLoading();
  const auto step_ends = [&] {
    Spent step;
    board.StepEnds(DeviceState::kDecode, 4'000'000, /*another_in_flight=*/false,
                   [&](EngineStats&, const Spent& spent) { step = spent; });
    return step.ns;
  };
  board.StepBegins();
  clock.AdvanceMs(4);
  board.OnAssistBegins();
  clock.AdvanceMs(1);
  EXPECT_EQ(step_ends(), 4'000'000);
  clock.AdvanceMs(2);
  board.StepBegins();  // Waits for the device.
  board.OnAssistEnds(3'000'000);
  clock.AdvanceMs(5);
  EXPECT_EQ(step_ends(), 4'000'000);
  const EngineStats stats = board.Snapshot();
  EXPECT_EQ(stats.states[static_cast<int>(DeviceState::kAssist)].ns, 3'000'000);
  EXPECT_EQ(stats.states[static_cast<int>(DeviceState::kIdle)].ns, 1'000'000);
  EXPECT_EQ(stats.lent, stats.states[static_cast<int>(DeviceState::kAssist)]);
  EXPECT_EQ(stats.held.ns, 12'000'000);
}

TEST(StatsBoardTest, NewPricesLeaveWhatWasChargedBefore) {
  testing::FakeClock clock;
  worker::StatsBoard board(PriceSchedule(3.6), clock);  // One nano-USD each microsecond.
  clock.AdvanceMs(1);
  board.SetPrices(PriceSchedule(7.2));
  clock.AdvanceMs(1);
  EXPECT_EQ(board.Snapshot().held, (Spent{.ns = 2'000'000, .nano_usd = 3'000}));
}

TEST(StatsBoardTest, HeldTimeAndCostNeverGoBack) {
  testing::FakeClock clock;
  worker::StatsBoard board(PriceSchedule(3.6), clock);
  board.EndLoading();
  clock.AdvanceMs(5);
  const Spent idle = board.Snapshot().held;
  EXPECT_EQ(idle.ns, 5'000'000);
  board.StepBegins();
  clock.AdvanceMs(5);
  EXPECT_EQ(board.Snapshot().held, idle) << "while a step runs nobody knows what its time will be";
}

}  // namespace
}  // namespace facet::test
