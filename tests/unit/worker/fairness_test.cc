// Who pays for a step: sums are exact, and shares are near Shapley values, the mean over all orders
// in which sequences could have come to the step of what each one added to its time.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>

#include "base/clock.h"
#include "worker/engine/charge.h"
#include "worker/engine/engine_stats.h"

namespace facet::test {
namespace {

using worker::Charge;
using worker::DeviceState;
using worker::EngineStats;
using worker::Spent;
using worker::StepModel;
using worker::StepRow;

// A clock that moves by any number of nanoseconds.
class NanoClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_; }

  int64_t UnixNs() const override { return 1'800'000'000'000'000'000 + now_ns_; }

  void Advance(int64_t ns) { now_ns_ += ns; }

 private:
  int64_t now_ns_ = 1;
};

// Prompts of 50 tokens, chunks anywhere.
class Plans {
 public:
  Plans() {
    for (int i = 0; i < 8; ++i) {
      sequences_.push_back(std::make_unique<worker::Sequence>(
          worker::SequenceRequest{.tenant = i % 2 == 0 ? "even" : "odd",
                                  .prompt_ids = std::vector<int32_t>(50, 1)},
          0));
    }
  }

  worker::StepPlan Draw(std::mt19937_64& random) const {
    worker::StepPlan plan(1'000'000);
    const size_t count = 1 + random() % sequences_.size();
    for (size_t i = 0; i < count; ++i) {
      const bool decode = random() % 2 == 0;
      plan.Add({.sequence = sequences_[i].get(),
                .first = static_cast<int32_t>(decode ? 50 + random() % 1000 : random() % 50),
                .num_tokens = static_cast<int32_t>(decode ? 1 : 1 + random() % 500)});
    }
    return plan;
  }

 private:
  std::vector<std::unique_ptr<worker::Sequence>> sequences_;
};

// Σ tenants = Σ busy states + borrowed - lent, and Σ states = held, in ns and in nano-USD.
void ExpectSumsHold(const EngineStats& stats) {
  Spent paid;
  for (const auto& [tenant, use] : stats.tenants) {
    paid += use.prefill;
    paid += use.decode;
  }
  Spent busy = stats.borrowed;
  busy -= stats.lent;
  Spent held;
  for (int i = 0; i < worker::kNumDeviceStates; ++i) {
    held += stats.states[i];
    if (worker::IsBusy(static_cast<DeviceState>(i))) busy += stats.states[i];
  }
  ASSERT_EQ(paid, busy);
  ASSERT_EQ(held, stats.held);
}

worker::PriceSchedule DrawPrices(const Clock& clock, std::mt19937_64& random) {
  std::vector<worker::DatedPrice> prices = {
      {.nano_usd_per_hour = static_cast<int64_t>(random() % 100'000'000'000)}};
  int64_t instant = clock.UnixNs();
  for (uint64_t left = random() % 3; left > 0; --left) {
    instant += 1 + static_cast<int64_t>(random() % 50'000'000);
    prices.push_back({instant, static_cast<int64_t>(random() % 100'000'000'000)});
  }
  return *worker::PriceSchedule::Create(std::move(prices));
}

// One random step, of this worker alone or shared with ranks.
void RunStep(worker::StatsBoard& board,
             NanoClock& clock,
             const Plans& plans,
             std::mt19937_64& random) {
  const worker::StepPlan plan = plans.Draw(random);
  std::vector<uint64_t> weights(plan.chunks().size());
  for (uint64_t& weight : weights) weight = 1 + random() % 10'000'000'000'000;
  const auto own = static_cast<int64_t>(std::accumulate(weights.begin(), weights.end(), 0ULL));
  board.StepBegins();
  if (random() % 2 == 0) ExpectSumsHold(board.Snapshot());
  clock.Advance(static_cast<int64_t>(random() % 20'000'000));
  board.StepEnds(DeviceState::kMixed, static_cast<int64_t>(random() % 25'000'000),
                 /*another_in_flight=*/false, [&](EngineStats& stats, const Spent& spent) {
                   Spent paid = spent;
                   if (random() % 3 == 0) {
                     const auto others = static_cast<int64_t>(random() % 10'000'000'000'000);
                     paid = worker::PartOfGroup(spent, own, own + others, /*num_ranks=*/4);
                   }
                   worker::BookBetweenRanks(spent, paid, stats);
                   for (const Charge& charge : worker::ChargeStep(plan, weights, paid)) {
                     worker::TenantUse& use = stats.tenants[random() % 2 == 0 ? "a" : "b"];
                     (charge.is_decode ? use.decode : use.prefill) += charge.spent;
                   }
                 });
}

TEST(FairnessTest, SumsHoldInEverySnapshotWhateverHappens) {
  const Plans plans;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    NanoClock clock;
    worker::StatsBoard board(DrawPrices(clock, random), clock);
    Spent before;
    for (int i = 0; i < 100; ++i) {
      switch (random() % 8) {
        case 0:
          board.SetPrices(DrawPrices(clock, random));
          break;
        case 1:
          board.SetSuspended(random() % 2 == 0);
          break;
        case 2:
          board.OnAssistBegins();
          clock.Advance(static_cast<int64_t>(random() % 5'000'000));
          board.OnAssistEnds(static_cast<int64_t>(random() % 5'000'000));
          break;
        default:
          RunStep(board, clock, plans, random);
      }
      clock.Advance(static_cast<int64_t>(random() % 3'000'000));
      const EngineStats stats = board.Snapshot();
      ExpectSumsHold(stats);
      ASSERT_GE(stats.held.ns, before.ns);
      ASSERT_GE(stats.held.nano_usd, before.nano_usd);
      before = stats.held;
    }
  }
}

using Cost = std::function<double(const std::vector<StepRow>&)>;

// By going through all coalitions: Σ over S without i of |S|! (n-|S|-1)! / n! (v(S + i) - v(S)).
std::vector<double> Shapley(const std::vector<StepRow>& rows, const Cost& cost) {
  const size_t n = rows.size();
  std::vector<double> value(size_t{1} << n);
  for (size_t set = 1; set < value.size(); ++set) {
    std::vector<StepRow> members;
    for (size_t i = 0; i < n; ++i) {
      if (set >> i & 1) members.push_back(rows[i]);
    }
    value[set] = cost(members);
  }
  std::vector<double> shares(n);
  for (size_t set = 0; set < value.size(); ++set) {
    const int size = std::popcount(set);
    const double orders =
        std::tgamma(size + 1) * std::tgamma(static_cast<double>(n) - size) / std::tgamma(n + 1);
    for (size_t i = 0; i < n; ++i) {
      if ((set >> i & 1) == 0) shares[i] += orders * (value[set | size_t{1} << i] - value[set]);
    }
  }
  return shares;
}

constexpr StepModel kModel = {.base_ns = 4e6,
                              .prefill_token_ns = 20e3,
                              .prefill_token_context_ns = 4,
                              .decode_row_ns = 150e3,
                              .decode_context_ns = 60};

// Tenant A sends long prompts, tenant B decodes: rows of 200 steps with ten sequences at most.
struct Step {
  std::vector<StepRow> rows;
  std::vector<bool> is_a;
};

std::vector<Step> DrawSteps() {
  std::mt19937 random(7);
  std::vector<Step> steps(200);
  for (Step& step : steps) {
    for (uint32_t left = random() % 3; left > 0; --left) {
      const auto tokens = static_cast<int32_t>(64 + random() % 400);
      step.rows.push_back(
          {.num_tokens = tokens, .context = static_cast<double>(random() % 4000) + tokens / 2.0});
      step.is_a.push_back(true);
    }
    for (uint32_t left = 1 + random() % 8; left > 0; --left) {
      step.rows.push_back(
          {.is_decode = true, .context = static_cast<double>(16 + random() % 8000)});
      step.is_a.push_back(false);
    }
  }
  return steps;
}

// Of all steps' time, what tenant A is to pay by each rule.
struct SharesOfA {
  double shapley = 0;
  double ours = 0;
  double wall_time = 0;  // Each sequence of a step pays alike: it was there for all of it.
};

SharesOfA SharesBy(const Cost& cost) {
  SharesOfA a;
  double total = 0;
  for (const Step& step : DrawSteps()) {
    const double step_ns = cost(step.rows);
    total += step_ns;
    const std::vector<double> fair = Shapley(step.rows, cost);
    const std::vector<int64_t> ours =
        worker::Divide(std::llround(step_ns), kModel.Weights(step.rows));
    for (size_t i = 0; i < step.rows.size(); ++i) {
      if (!step.is_a[i]) continue;
      a.shapley += fair[i];
      a.ours += static_cast<double>(ours[i]);
      a.wall_time += step_ns / static_cast<double>(step.rows.size());
    }
  }
  a.shapley /= total;
  a.ours /= total;
  a.wall_time /= total;
  return a;
}

void Print(const char* what, const SharesOfA& a) {
  std::printf(
      "%s: A pays %.2f %% by Shapley, %.2f %% by ours (off by %.2f %% of it), "
      "%.2f %% by wall time (off by %.1f %%)\n",
      what, 100 * a.shapley, 100 * a.ours, 100 * (a.ours / a.shapley - 1), 100 * a.wall_time,
      100 * (a.wall_time / a.shapley - 1));
}

TEST(FairnessTest, SharesAreShapleyValuesOfTheStepModel) {
  const SharesOfA a =
      SharesBy([](const std::vector<StepRow>& rows) { return kModel.StepNs(rows); });
  Print("linear steps", a);
  EXPECT_NEAR(a.ours / a.shapley, 1, 1e-6) << "a base shared alike and additive terms";
  EXPECT_GT(std::abs(a.wall_time / a.shapley - 1), 0.05);
}

// Experts are read once for all tokens of a step: the more tokens, the less a further one adds.
TEST(FairnessTest, SharedExpertsMoveSharesLessThanWallTimeDoes) {
  const SharesOfA a = SharesBy([](const std::vector<StepRow>& rows) {
    double tokens = 0;
    for (const StepRow& row : rows) tokens += row.num_tokens;
    constexpr double kExpertsNs = 6e6;  // To read all 128; a token chooses 8.
    return kModel.StepNs(rows) + kExpertsNs * (1 - std::pow(1 - 8.0 / 128, tokens));
  });
  Print("with shared experts", a);
  EXPECT_LT(std::abs(a.ours - a.shapley), std::abs(a.wall_time - a.shapley));
}

// Nobody's time is lost, whoever comes; a page stays small.
TEST(FairnessTest, AHundredThousandTenantsShareAThousandNames) {
  worker::EngineStats stats;
  constexpr int kTenants = 100'000;
  for (int i = 0; i < kTenants; ++i) stats.UseOf(StrCat("tenant-", i)).prefill.ns += 3;
  for (int i = 0; i < kTenants; ++i) stats.UseOf(StrCat("tenant-", i)).prefill.ns += 4;
  int64_t total_ns = 0;
  for (const auto& [tenant, use] : stats.tenants) total_ns += use.prefill.ns;
  EXPECT_EQ(total_ns, 7 * kTenants);
  EXPECT_EQ(stats.tenants.size(), 1000U);
  EXPECT_EQ(stats.tenants.at("tenant-0").prefill.ns, 7);
  EXPECT_EQ(stats.tenants_as_other, 2U * (kTenants - 999));
}

}  // namespace
}  // namespace facet::test
