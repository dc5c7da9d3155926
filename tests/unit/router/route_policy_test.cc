#include "router/routing/route_policy.h"

#include <gtest/gtest.h>

#include <vector>

namespace facet::router {
namespace {

// A worker with room that computes 1,000 prompt tokens and makes 20 steps in a second.
struct Candidate : RouteCandidate {
  explicit Candidate(std::string name) {
    worker = std::move(name);
    ready = true;
    context_tokens_max = 1000;
    sequence_credits = 10;
    prefill_token_credits = 10'000;
    prefill_tokens_per_second = 1000;
    step_ms_predicted = 50;
  }
};

template <typename Change>
RouteCandidate With(std::string name, Change change) {
  Candidate candidate(std::move(name));
  change(candidate);
  return candidate;
}

struct RouteCase {
  std::string name;
  std::vector<RouteCandidate> fleet;
  std::string want;  // Empty: nobody.
};

class RoutePolicyTest : public ::testing::TestWithParam<RouteCase> {};

TEST_P(RoutePolicyTest, PicksTheWorkerWithTheLeastCost) {
  const RouteQuery query{.prompt_tokens = 100, .context_tokens = 200, .hash = 1};
  const auto picked = PickWorker(GetParam().fleet, query);
  EXPECT_EQ(picked ? GetParam().fleet[static_cast<size_t>(*picked)].worker : "", GetParam().want);
}

const RouteCase kCases[] = {
    {.name = "no_worker", .fleet = {}, .want = ""},
    {.name = "not_ready", .fleet = {With("a", [](auto& it) { it.ready = false; })}, .want = ""},
    {.name = "no_sequence_credit",
     .fleet = {With("a", [](auto& it) { it.sequence_credits = 0; })},
     .want = ""},
    {.name = "too_few_prefill_credits",
     .fleet = {With("a", [](auto& it) { it.prefill_token_credits = 99; })},
     .want = ""},
    {.name = "just_enough_of_all",
     .fleet = {With("a",
                    [](auto& it) {
                      it.sequence_credits = 1;
                      it.prefill_token_credits = 100;
                      it.context_tokens_max = 200;
                    })},
     .want = "a"},
    {.name = "context_too_short",
     .fleet = {With("a", [](auto& it) { it.context_tokens_max = 199; })},
     .want = ""},
    {.name = "shorter_prompt_queue_wins",
     .fleet = {With("a", [](auto& it) { it.prefill_tokens_ahead = 500; }), Candidate("b")},
     .want = "b"},
    {.name = "faster_worker_wins_over_a_short_queue",
     .fleet = {With("a",
                    [](auto& it) {
                      it.prefill_tokens_ahead = 300;
                      it.prefill_tokens_per_second = 8000;
                    }),
               Candidate("b")},
     .want = "a"},
    {.name = "fewer_sequences_win",
     .fleet = {With("a", [](auto& it) { it.sequences_ahead = 4; }),
               With("b", [](auto& it) { it.sequences_ahead = 3; })},
     .want = "b"},
    {.name = "a_busy_batch_outweighs_a_short_prompt_queue",
     .fleet = {With("a", [](auto& it) { it.sequences_ahead = 20; }),
               With("b", [](auto& it) { it.prefill_tokens_ahead = 400; })},
     .want = "b"},
    {.name = "a_worker_that_nobody_tried_is_tried_however_fast_the_others_are",
     .fleet = {With("a",
                    [](auto& it) {
                      it.prefill_tokens_per_second = 50'000;
                      it.sequences_ahead = 1;
                    }),
               With("b",
                    [](auto& it) {
                      it.prefill_tokens_per_second = 0;
                      it.step_ms_predicted = 0;
                    })},
     .want = "b"},
};

INSTANTIATE_TEST_SUITE_P(All, RoutePolicyTest, ::testing::ValuesIn(kCases), [](const auto& row) {
  return row.param.name;
});

TEST(RoutePolicyTest, TiesSpreadOverWorkersAndDoNotDependOnTheirOrder) {
  const std::vector<RouteCandidate> fleet = {Candidate("a"), Candidate("b"), Candidate("c")};
  const std::vector<RouteCandidate> turned = {fleet[2], fleet[1], fleet[0]};
  int count[3] = {};
  for (uint64_t hash = 0; hash < 3000; ++hash) {
    const RouteQuery query{.prompt_tokens = 1, .context_tokens = 2, .hash = hash * 7919};
    const int picked = *PickWorker(fleet, query);
    EXPECT_EQ(picked, 2 - *PickWorker(turned, query));
    ++count[picked];
  }
  for (const int each : count) EXPECT_NEAR(each, 1000, 150);
}

}  // namespace
}  // namespace facet::router
