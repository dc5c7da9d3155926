// What the engine promises of requests, on an executor that counts.
#include "worker/engine/engine.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "tests/support/counting_executor.h"
#include "tests/support/engine_driver.h"

namespace facet::test {
namespace {

using worker::FinishReason;

worker::EngineOptions Options(int32_t chunk = 64) {
  return {.scheduler = {.running_max = 8,
                        .waiting_max = 4,
                        .step_tokens_max = 64,
                        .chunk_tokens_max = chunk,
                        .context_tokens_max = 4096},
          .prices = worker::PriceSchedule(3.6)};
}

worker::SequenceRequest Request(const std::string& id, int prompt, int32_t output) {
  return {
      .request_id = id, .prompt_ids = std::vector<int32_t>(prompt, 5), .new_tokens_max = output};
}

// The tokens that follow a prompt of this length.
std::vector<int32_t> Counted(int prompt, int output) {
  std::vector<int32_t> tokens;
  tokens.reserve(output);
  for (int i = 0; i < output; ++i) tokens.push_back((prompt + i) % 1000);
  return tokens;
}

TEST(EngineTest, APromptInManyChunksGetsItsTokensInOrder) {
  for (const int32_t chunk : {1, 7, 64}) {
    CountingExecutor executor({});
    EngineDriver driver(Options(chunk), executor);
    driver.Submit(Request("a", 150, 40));
    ASSERT_TRUE(driver.RunAll());
    EXPECT_EQ(driver.answer("a").tokens, Counted(150, 40));
    EXPECT_EQ(driver.answer("a").finish, FinishReason::kLength);
  }
}

TEST(EngineTest, AStopTokenEndsTheAnswerAndIsItsLast) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  worker::SequenceRequest request = Request("a", 10, 40);
  request.stop_ids = {13};
  driver.Submit(request);
  ASSERT_TRUE(driver.RunAll());
  EXPECT_EQ(driver.answer("a").tokens, Counted(10, 4));
  EXPECT_EQ(driver.answer("a").finish, FinishReason::kStop);
  EXPECT_EQ(executor.num_steps(), 5) << "one was planned before the stop was known";
  EXPECT_GT(driver.engine().Stats().wasted_ns.at("overrun"), 0);
}

TEST(EngineTest, NothingIsComputedAfterTheLastTokenThatALengthAllows) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  driver.Submit(Request("a", 10, 5));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_EQ(driver.answer("a").tokens, Counted(10, 5));
  EXPECT_EQ(executor.num_steps(), 5);
  EXPECT_TRUE(driver.engine().Stats().wasted_ns.empty());
}

TEST(EngineTest, CommittedTokensAreNotGivenAgain) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  worker::SequenceRequest request = Request("a", 10, 5);
  request.committed_ids = {10, 11};

  // The driver checks that deltas start at position 0; a resumed one starts at 2.
  class Sink final : public worker::EngineSink {
   public:
    void OnStepFrame(worker::StepFrame frame) override {
      credits = frame.credits;
      for (const worker::TokenDelta& delta : frame.deltas) {
        if (delta.token_ids.empty()) continue;
        positions.push_back(delta.first_position);
        tokens.push_back(delta.token_ids[0]);
      }
    }

    void OnRefusal(worker::Refusal) override { FAIL(); }

    void OnSettled(worker::SettledAccount) override {}

    void OnLost(const Status&) override { FAIL(); }

    worker::Credits credits;
    std::vector<int32_t> positions;
    std::vector<int32_t> tokens;
  } sink;

  worker::Engine engine(Options(), executor, sink, Clock::Real());
  engine.OpenSession(1);
  request.session_id = 1;
  ASSERT_TRUE(engine.AddRequest(request).ok());
  while (engine.Step()) {
  }
  EXPECT_EQ(sink.positions, (std::vector<int32_t>{2, 3, 4}));
  EXPECT_EQ(sink.tokens, (std::vector<int32_t>{12, 13, 14}));
  EXPECT_EQ(sink.credits.sequences_received, 1U);
  EXPECT_EQ(sink.credits.prefill_tokens_received, 12U) << "what the router counted as sent";
  EXPECT_EQ(sink.credits.prefill_tokens, 12U + engine.context_tokens_max());
  const worker::EngineStats stats = engine.Stats();
  EXPECT_GT(stats.wasted_ns.at("migration_replay"), 0);
  EXPECT_EQ(stats.wasted_ns.at("migration_replay"), stats.tenants.at("").prefill.ns)
      << "prompt and committed tokens were computed by the worker before";
}

TEST(EngineTest, BadLogitsEndThatSequenceAlone) {
  CountingExecutor executor({.bad_position = 25});
  EngineDriver driver(Options(), executor);
  driver.Submit(Request("bad", 20, 10));
  driver.Submit(Request("good", 40, 10));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_EQ(driver.answer("bad").finish, FinishReason::kError);
  EXPECT_EQ(driver.answer("bad").tokens, Counted(20, 5));
  EXPECT_EQ(driver.answer("good").tokens, Counted(40, 10));
}

TEST(EngineTest, CancelFreesBlocksWithinTwoSteps) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  driver.Submit(Request("a", 100, 1000));
  for (int i = 0; i < 10; ++i) driver.engine().Step();
  EXPECT_GT(driver.engine().Stats().load.kv_bytes_used, 0);
  driver.engine().CancelRequest(EngineDriver::kSession, "a", 1, FinishReason::kCancelled, true);
  driver.engine().Step();
  driver.engine().Step();
  EXPECT_EQ(driver.engine().Stats().load.kv_bytes_used, 0);
  EXPECT_EQ(driver.answer("a").finish, FinishReason::kCancelled);
}

TEST(EngineTest, ACancelOfAnOlderEpochIsIgnored) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  worker::SequenceRequest request = Request("a", 10, 5);
  request.epoch = 2;
  driver.Submit(request);
  driver.engine().Step();
  driver.engine().CancelRequest(EngineDriver::kSession, "a", 1, FinishReason::kCancelled, true);
  ASSERT_TRUE(driver.RunAll());
  EXPECT_EQ(driver.answer("a").finish, FinishReason::kLength);
}

TEST(EngineTest, AFailedStepLosesEverySequenceAndOnlyThose) {
  CountingExecutor executor({.fail_step = 4});
  EngineDriver driver(Options(), executor);
  driver.Submit(Request("a", 10, 100));
  driver.Submit(Request("b", 20, 100));
  ASSERT_TRUE(driver.RunAll());
  ASSERT_EQ(driver.lost().size(), 1u);
  EXPECT_EQ(MessageOf(driver.lost()[0]), "rank 1 is gone");
  const worker::EngineStats lost = driver.engine().Stats();
  EXPECT_EQ(lost.load.kv_bytes_used, 0);
  EXPECT_EQ(lost.load.sequences_running, 0);
  EXPECT_GT(lost.wasted_ns.at("group_lost"), 0);
  EXPECT_EQ(driver.answer("a").finish, FinishReason::kNone) << "its session is over";
  const size_t tokens = driver.answer("a").tokens.size();

  driver.engine().OpenSession(EngineDriver::kSession);
  driver.Submit(Request("early", 10, 5));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_EQ(driver.answer("early").refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(driver.answer("a").tokens.size(), tokens);

  size_t lost_before = 0;
  driver.engine().Resume([&] { lost_before = driver.lost().size(); });
  driver.Submit(Request("late", 30, 5));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_EQ(lost_before, 1u) << "told of the loss, then of its end";
  EXPECT_EQ(driver.answer("late").tokens, Counted(30, 5));
  const worker::EngineStats stats = driver.engine().Stats();
  EXPECT_GT(stats.states[static_cast<int>(worker::DeviceState::kFault)].ns, 0);
  worker::Spent sum;
  for (const worker::Spent& spent : stats.states) sum += spent;
  EXPECT_EQ(sum, stats.held);
}

TEST(EngineTest, AnEndTakesBackAResumeThatHasNotCome) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  driver.Submit(Request("a", 10, 100));
  for (int i = 0; i < 3; ++i) driver.engine().Step();  // One step is in flight.
  bool resumed = false;
  driver.engine().Suspend(Unavailable("rank 1 is gone"));
  driver.engine().Resume([&] { resumed = true; });
  driver.engine().Suspend(Unavailable("rank 1 is gone again"));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_FALSE(resumed);
  driver.engine().Resume([&] { resumed = true; });
  ASSERT_FALSE(driver.engine().Step());
  EXPECT_TRUE(resumed);
}

TEST(EngineTest, SuspendLosesSessionsOfAnIdleEngineToo) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  driver.engine().Step();
  driver.engine().Suspend(Unavailable("rank 1 is gone"));
  driver.engine().Suspend(Unavailable("rank 2 is gone"));
  driver.engine().Step();
  ASSERT_EQ(driver.lost().size(), 1u);
  driver.Submit(Request("nobody's", 10, 5));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_TRUE(driver.answer("nobody's").tokens.empty());
}

TEST(EngineTest, RefusesWhatCanNeverFitAndNamesTheBound) {
  CountingExecutor executor({.num_slabs = 8});
  EngineDriver driver(Options(), executor);
  const int32_t longest = driver.engine().context_tokens_max();
  EXPECT_LT(longest, 4096);
  driver.Submit(Request("long", 10, longest));
  driver.Submit(Request("fits", 10, longest - 10));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_EQ(driver.answer("long").refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MessageOf(driver.answer("long").refused),
            StrCat("new_tokens_max is ", longest, "; at most ", longest - 10,
                   " fit after a prompt of 10"));
  EXPECT_EQ(driver.answer("fits").tokens, Counted(10, longest - 10));
}

TEST(EngineTest, RefusesMoreThanItsQueueHolds) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  for (int i = 0; i < 13; ++i) driver.Submit(Request(StrCat(i), 10, 5));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_TRUE(driver.answer("11").refused.ok());
  EXPECT_EQ(driver.answer("12").refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(driver.frames().back().credits.sequences_received, 12U) << "a refused one counts not";
  EXPECT_EQ(driver.frames().back().credits.sequences, 24U);
}

TEST(EngineTest, EveryNanosecondOfAStepIsChargedAndOnce) {
  CountingExecutor executor({.device_ns = 1'000'003});
  EngineDriver driver(Options(), executor);
  for (int i = 0; i < 5; ++i) driver.Submit(Request(StrCat(i), 10 + 31 * i, 20 + i));
  ASSERT_TRUE(driver.RunAll());
  worker::Spent charged;
  for (int i = 0; i < 5; ++i) {
    const Answer& answer = driver.answer(StrCat(i));
    charged += {.ns = answer.prefill_ns + answer.decode_ns, .nano_usd = answer.cost_nano_usd};
  }
  const worker::EngineStats stats = driver.engine().Stats();
  worker::Spent busy;
  worker::Spent held;
  for (int i = 0; i < worker::kNumDeviceStates; ++i) {
    held += stats.states[i];
    if (worker::IsBusy(static_cast<worker::DeviceState>(i))) busy += stats.states[i];
  }
  EXPECT_EQ(charged, busy);
  EXPECT_EQ(held, stats.held);
  // 3.6 USD an hour is one nano-USD a microsecond.
  EXPECT_EQ(held.nano_usd, held.ns / 1000);
}

// What a sequence was charged is waste once, whatever becomes of it.
TEST(EngineTest, WasteIsCountedOnceWhateverItsReason) {
  CountingExecutor executor({.num_slabs = 12, .bad_position = 25});
  EngineDriver driver(Options(), executor);
  driver.Submit(Request("bad", 20, 8));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_GT(driver.engine().Stats().wasted_ns.at("error"), 0);
  for (int i = 0; i < 3; ++i) driver.Submit(Request(StrCat(i), 40, 60));
  for (int i = 0; i < 30; ++i) driver.engine().Step();
  for (int i = 0; i < 3; ++i) {
    driver.engine().CancelRequest(EngineDriver::kSession, StrCat(i), 1, FinishReason::kCancelled,
                                  /*wasted=*/true);
  }
  ASSERT_TRUE(driver.RunAll());
  const worker::EngineStats stats = driver.engine().Stats();
  EXPECT_GT(stats.wasted_ns.at("client_gone"), 0);
  int64_t total_ns = 0;
  for (int i = 0; i < worker::kNumDeviceStates; ++i) {
    if (worker::IsBusy(static_cast<worker::DeviceState>(i))) total_ns += stats.states[i].ns;
  }
  int64_t wasted_ns = 0;
  for (const auto& [reason, ns] : stats.wasted_ns) wasted_ns += ns;
  EXPECT_EQ(wasted_ns, total_ns) << "nobody got anything whole";
}

TEST(EngineTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  driver.Submit(Request("a", 10, 30));
  driver.engine().Step();
  bool drained = false;
  driver.engine().Drain([&] { drained = true; });
  driver.Submit(Request("late", 10, 5));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_TRUE(drained);
  EXPECT_EQ(driver.answer("a").tokens, Counted(10, 30));
  EXPECT_EQ(driver.answer("late").refused.code(), absl::StatusCode::kUnavailable);
}

// Random arrivals, lengths, cancels and pools that are too small: every answer is whole or
// cancelled, nothing hangs, nothing leaks.
TEST(EngineTest, RandomTrafficInSmallPoolsEndsWell) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    CountingExecutor executor({.num_slabs = 12 + static_cast<int64_t>(random() % 20)});
    EngineDriver driver(Options(1 + static_cast<int32_t>(random() % 64)), executor);
    const int32_t longest = driver.engine().context_tokens_max();
    std::map<std::string, std::pair<int, int>> shapes;
    for (int i = 0; i < 40; ++i) {
      const std::string id = StrCat(i);
      const int prompt = 1 + static_cast<int>(random() % (longest / 2));
      const int output = 1 + static_cast<int>(random() % (longest / 2));
      shapes[id] = {prompt, output};
      driver.Submit(Request(id, prompt, output));
      for (uint32_t step = random() % 40; step > 0; --step) driver.engine().Step();
      if (random() % 4 == 0) {
        driver.engine().CancelRequest(EngineDriver::kSession, StrCat(random() % (i + 1)), 1,
                                      FinishReason::kCancelled, true);
      }
    }
    ASSERT_TRUE(driver.RunAll(200'000));
    for (const auto& [id, shape] : shapes) {
      const Answer& answer = driver.answer(id);
      if (!answer.refused.ok()) continue;
      const auto count = static_cast<int>(answer.tokens.size());
      EXPECT_EQ(answer.tokens, Counted(shape.first, count)) << id;
      if (answer.finish == FinishReason::kLength) {
        EXPECT_EQ(count, shape.second) << id;
      } else {
        EXPECT_EQ(answer.finish, FinishReason::kCancelled) << id;
      }
    }
    EXPECT_EQ(driver.engine().Stats().load.kv_bytes_used, 0);
  }
}

// Ends of every kind at random: what was settled is what the tenants were charged, and what the
// frames of open sessions said, each sequence once.
TEST(EngineTest, SettledAccountsSumToTheTotalsOfTheirTenants) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const bool group_ends = seed % 3 == 0;
    CountingExecutor executor({.num_slabs = 12 + static_cast<int64_t>(random() % 20),
                               .device_ns = 1'000'003,
                               .fail_step = group_ends ? 60 : -1});
    EngineDriver driver(Options(1 + static_cast<int32_t>(random() % 64)), executor);
    const int32_t longest = driver.engine().context_tokens_max();
    for (int i = 0; i < 30; ++i) {
      worker::SequenceRequest request = Request(StrCat(i), 1 + static_cast<int>(random() % 60),
                                                1 + static_cast<int32_t>(random() % 40));
      request.tenant = StrCat("tenant-", i % 3);
      if (i % 7 == 3) request.deadline_unix_ns = Clock::Real().UnixNs() + 200'000;
      ASSERT_LE(100, longest);
      driver.Submit(std::move(request));
      for (uint32_t step = random() % 10; step > 0; --step) driver.engine().Step();
      if (random() % 4 == 0) {
        driver.engine().CancelRequest(EngineDriver::kSession, StrCat(random() % (i + 1)), 1,
                                      FinishReason::kCancelled, true);
      }
      if (random() % 16 == 0) {
        driver.engine().CloseSession(EngineDriver::kSession);
        driver.engine().OpenSession(EngineDriver::kSession);
      }
    }
    ASSERT_TRUE(driver.RunAll(200'000));
    std::map<std::string, worker::TenantUse> sums;
    std::map<std::string, int64_t> wasted_ns;
    std::set<std::string> ids;
    for (const worker::SettledAccount& account : driver.settled()) {
      EXPECT_TRUE(ids.insert(account.request_id).second) << account.request_id;
      EXPECT_NE(account.finish, FinishReason::kNone);
      EXPECT_LE(account.start_unix_ns, account.end_unix_ns);
      worker::TenantUse& sum = sums[account.tenant];
      sum.prefill += account.prefill;
      sum.decode += account.decode;
      sum.prompt_tokens += account.num_prompt_tokens;
      sum.output_tokens += account.num_output_tokens;
      int64_t wasted = 0;
      for (const auto& [reason, ns] : account.wasted_ns) {
        wasted += ns;
        wasted_ns[reason] += ns;
      }
      EXPECT_LE(wasted, account.prefill.ns + account.decode.ns);
      const Answer& answer = driver.answer(account.request_id);
      EXPECT_GE(account.prefill.ns + account.decode.ns, answer.prefill_ns + answer.decode_ns);
      if (answer.finish == FinishReason::kLength) {
        EXPECT_EQ(account.prefill.nano_usd + account.decode.nano_usd, answer.cost_nano_usd);
      }
    }
    const worker::EngineStats stats = driver.engine().Stats();
    EXPECT_GT(sums.size(), 1u);
    for (const auto& [tenant, use] : stats.tenants) {
      EXPECT_EQ(sums[tenant].prefill, use.prefill);
      EXPECT_EQ(sums[tenant].decode, use.decode);
      EXPECT_EQ(sums[tenant].prompt_tokens, use.prompt_tokens);
      EXPECT_EQ(sums[tenant].output_tokens, use.output_tokens);
    }
    for (const auto& [reason, ns] : stats.wasted_ns) EXPECT_EQ(wasted_ns[reason], ns) << reason;
  }
}

TEST(EngineTest, AnAccountIsSettledAfterItsLastFrame) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  worker::SequenceRequest request = Request("a", 10, 40);
  request.stop_ids = {13};  // The step after it is under way by then.
  driver.Submit(std::move(request));
  while (driver.settled().empty()) ASSERT_TRUE(driver.engine().Step());
  const worker::SettledAccount& account = driver.settled()[0];
  const Answer& answer = driver.answer("a");
  EXPECT_EQ(account.finish, FinishReason::kStop);
  EXPECT_EQ(account.num_prompt_tokens, 10);
  EXPECT_EQ(account.num_output_tokens, 4);
  EXPECT_EQ(account.decode.ns, answer.decode_ns);
  EXPECT_EQ(account.prefill.nano_usd + account.decode.nano_usd, answer.cost_nano_usd);
  EXPECT_GT(account.wasted_ns.at("overrun"), 0);
  EXPECT_GE(account.last_token_unix_ns, account.first_token_unix_ns);
  EXPECT_GT(account.end_unix_ns, account.last_token_unix_ns);
}

// Ranks of a group and replicas alike differ by what they hold, not by what they happened to run.
TEST(EngineTest, ALoadIsPredictedByTheStepModel) {
  CountingExecutor executor({});
  worker::EngineOptions options = Options();
  options.step_model = {.base_ns = 2e6,
                        .prefill_token_ns = 1e4,
                        .decode_row_ns = 5e5,
                        .decode_context_ns = 10,
                        .predicts = true};
  EngineDriver driver(options, executor);
  driver.engine().Step();
  const worker::Load idle = driver.frames().back().load;
  EXPECT_DOUBLE_EQ(idle.step_ms_predicted, 2.5);
  const double chunk = options.scheduler.chunk_tokens_max;
  EXPECT_DOUBLE_EQ(idle.prefill_tokens_per_second, chunk / (2e-3 + chunk * 1e-5));
  driver.Submit(Request("a", 10, 50));
  for (int i = 0; i < 5; ++i) driver.engine().Step();
  const worker::Load busy = driver.frames().back().load;
  EXPECT_EQ(busy.sequences_running, 1);
  EXPECT_NEAR(busy.step_ms_predicted, 3, 0.01);
  EXPECT_EQ(busy.prefill_tokens_per_second, idle.prefill_tokens_per_second);
  EXPECT_LT(driver.engine().Stats().step_ms_mean, 1) << "a step here takes microseconds";
  EXPECT_NEAR(driver.engine().Stats().step_predicted_ns, 2.5e6, 1e4);
  ASSERT_TRUE(driver.RunAll());
}

TEST(EngineTest, CreditsGrowAsRequestsEnd) {
  CountingExecutor executor({});
  EngineDriver driver(Options(), executor);
  driver.engine().Step();
  ASSERT_FALSE(driver.frames().empty());
  EXPECT_EQ(driver.frames().back().credits.sequences, 12U);  // running_max + waiting_max
  for (int i = 0; i < 12; ++i) driver.Submit(Request(StrCat(i), 10, 5));
  ASSERT_TRUE(driver.RunAll());
  EXPECT_EQ(driver.frames().back().credits.sequences, 24U);
}

}  // namespace
}  // namespace facet::test
