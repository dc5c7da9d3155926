#include "cli/answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace facet {
namespace {

v1::ChatResponse Delta(bool thought, const std::string& text, std::initializer_list<int32_t> ids) {
  v1::ChatResponse event;
  v1::TextDelta& delta = thought ? *event.mutable_thought() : *event.mutable_text();
  delta.set_text(text);
  for (const int32_t id : ids) delta.add_token_ids(id);
  return event;
}

v1::ChatResponse End() {
  v1::ChatResponse event;
  v1::Finished& finished = *event.mutable_finished();
  finished.set_reason(v1::FINISH_REASON_STOP);
  finished.add_token_ids(106);
  v1::Usage& usage = *finished.mutable_usage();
  usage.set_prompt_tokens(12);
  usage.set_completion_tokens(5);
  usage.set_cost_usd(0.0000012);
  usage.set_ttft_ms(12.4);
  usage.set_tpot_ms(10);
  usage.set_total_ms(52.4);
  return event;
}

TEST(AnswerTest, JsonHasTextTokensReasonUsageAndTiming) {
  Answer answer;
  answer.Add(Delta(/*thought=*/true, "hm", {5, 6}));
  answer.Add(Delta(/*thought=*/false, "Hi ", {7}));
  answer.Add(Delta(/*thought=*/false, "there", {8}));
  answer.Add(End());
  const auto json = nlohmann::json::parse(answer.Json());
  EXPECT_EQ(json["text"], "Hi there");
  EXPECT_EQ(json["thought"], "hm");
  EXPECT_EQ(json["token_ids"], nlohmann::json({5, 6, 7, 8, 106}));
  EXPECT_EQ(json["finish_reason"], "stop");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 12);
  EXPECT_EQ(json["usage"]["completion_tokens"], 5);
  EXPECT_EQ(json["usage"]["cost_usd"], 0.0000012);
  EXPECT_EQ(json["timing"]["ttft_ms"], 12.4);
  EXPECT_EQ(json["timing"]["tpot_ms"], 10);
  EXPECT_EQ(json["timing"]["total_ms"], 52.4);
}

TEST(AnswerTest, SummaryShowsSpeedAndCost) {
  Answer answer;
  answer.Add(End());
  EXPECT_EQ(answer.Summary(), "TTFT 12 ms · 100.0 tok/s · 12 + 5 tokens · $0.0000012");
}

TEST(AnswerTest, JsonOfInvalidUtf8IsStillJson) {
  Answer answer;
  answer.Add(Delta(/*thought=*/false, "\xff", {1}));
  EXPECT_FALSE(nlohmann::json::parse(answer.Json(), nullptr, false).is_discarded());
}

TEST(SamplingFlagsTest, WhatIsNotGivenStaysAbsent) {
  SamplingFlags flags;
  flags.temperature = 0;
  EXPECT_TRUE(flags.Sampling().has_temperature());
  EXPECT_FALSE(flags.Sampling().has_top_p());
  EXPECT_FALSE(flags.Limits().has_new_tokens_max());
}

}  // namespace
}  // namespace facet
