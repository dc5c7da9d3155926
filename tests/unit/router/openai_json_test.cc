#include "router/front/openai_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/grpc_status.h"

namespace facet::router {
namespace {

using ::testing::HasSubstr;

TEST(OpenAiJsonTest, ReadsEveryServedParameter) {
  const auto parsed = ParseChatCompletion(R"({
    "model": "m", "stream": true, "stream_options": {"include_usage": true},
    "messages": [{"role": "system", "content": "s"},
                 {"role": "user", "content": [{"type": "text", "text": "a"},
                                              {"type": "text", "text": "b"}]}],
    "temperature": 0.5, "top_p": 0.9, "top_k": -1, "seed": 7, "stop": ["x", "y"], "n": 1,
    "max_completion_tokens": 12, "presence_penalty": 1, "frequency_penalty": null,
    "logprobs": true, "top_logprobs": 2, "logit_bias": {"5": -1},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "auto"})");
  ASSERT_TRUE(parsed.ok()) << MessageOf(parsed.status());
  EXPECT_TRUE(parsed->stream && parsed->include_usage && parsed->logprobs);
  const ClientRequest& request = parsed->request;
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.sampling.temperature(), 0.5F);
  EXPECT_EQ(request.sampling.top_k(), 0);
  EXPECT_EQ(request.sampling.seed(), 7u);
  EXPECT_FALSE(request.sampling.has_frequency_penalty());
  EXPECT_EQ(request.sampling.logit_bias().at(5), -1);
  EXPECT_EQ(request.limits.new_tokens_max(), 12);
  EXPECT_EQ(request.limits.stop_size(), 2);
  EXPECT_EQ(request.logprobs, 3);
  const auto& conversation = std::get<Conversation>(request.prompt);
  EXPECT_EQ(conversation.messages.size(), 2u);
  EXPECT_EQ(conversation.tools.size(), 1u);
}

TEST(OpenAiJsonTest, ReadsArgumentsOfEarlierCallsFromTheirString) {
  const auto parsed = ParseChatCompletion(R"({"model": "m", "messages": [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
       "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "1"}]})");
  ASSERT_TRUE(parsed.ok()) << MessageOf(parsed.status());
  const auto& conversation = std::get<Conversation>(parsed->request.prompt);
  EXPECT_EQ(conversation.messages[1].tool_calls.at(0).arguments["x"], 1);
}

TEST(OpenAiJsonTest, ToolChoiceNoneHidesTheTools) {
  const auto parsed = ParseChatCompletion(
      R"({"model": "m", "messages": [{"role": "user", "content": "q"}], "tool_choice": "none",
          "tools": [{"type": "function", "function": {"name": "f"}}]})");
  ASSERT_TRUE(parsed.ok()) << MessageOf(parsed.status());
  EXPECT_TRUE(std::get<Conversation>(parsed->request.prompt).tools.empty());
}

struct BadBody {
  std::string name;
  std::string members;  // Added to a good body.
  std::string param;
  std::string message;
};

class OpenAiJsonBadTest : public ::testing::TestWithParam<BadBody> {};

TEST_P(OpenAiJsonBadTest, IsRefusedByName) {
  const std::string body = R"({"model": "m", "messages": [{"role": "user", "content": "q"}], )" +
                           GetParam().members + "}";
  const auto parsed = ParseChatCompletion(body);
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(FieldOf(parsed.status()), GetParam().param);
  EXPECT_THAT(MessageOf(parsed.status()), HasSubstr(GetParam().message));
  EXPECT_EQ(HttpStatusOf(parsed.status()), 400);
}

const BadBody kBad[] = {
    {.name = "unknown",
     .members = R"("best_of": 2)",
     .param = "best_of",
     .message = "best_of is not a parameter that is served"},
    {.name = "n", .members = R"("n": 2)", .param = "n", .message = "n asks for what is not served"},
    {.name = "temperature_text",
     .members = R"("temperature": "hot")",
     .param = "temperature",
     .message = "temperature must be a number"},
    {.name = "max_tokens_zero",
     .members = R"("max_tokens": 0)",
     .param = "max_tokens",
     .message = "max_tokens is 0; it must be at least 1"},
    {.name = "max_tokens_huge",
     .members = R"("max_tokens": 99999999999999)",
     .param = "max_tokens",
     .message = "which no limit allows"},
    {.name = "json_schema",
     .members = R"("response_format": {"type": "json_schema"})",
     .param = "response_format",
     .message = "not served"},
    {.name = "forced_tool",
     .members = R"("tool_choice": "required")",
     .param = "tool_choice",
     .message = "not served"},
    {.name = "unknown_stream_option",
     .members = R"("stream_options": {"x": 1})",
     .param = "stream_options.x",
     .message = "not served"},
    {.name = "stop_number", .members = R"("stop": 3)", .param = "stop", .message = "stop must be"},
    {.name = "bias_key",
     .members = R"("logit_bias": {"the": 1})",
     .param = "logit_bias",
     .message = "no token id"},
    {.name = "top_without_logprobs",
     .members = R"("top_logprobs": 2)",
     .param = "top_logprobs",
     .message = "needs logprobs"},
};

INSTANTIATE_TEST_SUITE_P(All, OpenAiJsonBadTest, ::testing::ValuesIn(kBad), [](const auto& row) {
  return row.param.name;
});

TEST(OpenAiJsonTest, BrokenBodiesAreRefused) {
  for (const char* body : {"", "[]", "{", "{\"model\": \"m\"}", "\xff", "{\"messages\": 3}"}) {
    const auto parsed = ParseChatCompletion(body);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << body;
  }
}

TEST(OpenAiJsonTest, ErrorsSpeakOpenAisNames) {
  const Status status = WithField(InvalidArgument("limits.new_tokens_max is 9; at most 8 fit"),
                                  "limits.new_tokens_max");
  const OrderedJson error = OrderedJson::parse(ErrorBody(status))["error"];
  EXPECT_EQ(error["param"], "max_completion_tokens");
  EXPECT_EQ(error["message"], "max_completion_tokens is 9; at most 8 fit");
  EXPECT_EQ(error["type"], "invalid_request_error");
  const Status missing = WithReason(NotFound("no"), "MODEL_NOT_FOUND");
  EXPECT_EQ(OrderedJson::parse(ErrorBody(missing))["error"]["code"], "model_not_found");
}

AnswerEvent Accepted() {
  AnswerEvent event;
  event.mutable_accepted()->set_model("m");
  return event;
}

AnswerEvent Text(const std::string& text) {
  AnswerEvent event;
  event.mutable_text()->set_text(text);
  return event;
}

AnswerEvent Finished() {
  AnswerEvent event;
  event.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
  event.mutable_finished()->mutable_usage()->set_prompt_tokens(3);
  event.mutable_finished()->mutable_usage()->set_completion_tokens(2);
  return event;
}

TEST(OpenAiJsonTest, ChunksCarryRoleThenTextThenTheReason) {
  OpenAiAnswer answer("id", 5, /*logprobs=*/false, nullptr);
  const auto chunk = [&answer](const AnswerEvent& event) {
    return OrderedJson::parse(answer.Chunk(event).value())["choices"][0];
  };
  EXPECT_EQ(chunk(Accepted())["delta"]["role"], "assistant");
  EXPECT_EQ(chunk(Text("hi"))["delta"]["content"], "hi");
  EXPECT_FALSE(answer.Chunk(Text("")).has_value());
  EXPECT_EQ(chunk(Finished())["finish_reason"], "length");
  const OrderedJson usage = OrderedJson::parse(answer.UsageChunk());
  EXPECT_EQ(usage["usage"]["total_tokens"], 5);
  EXPECT_TRUE(usage["choices"].empty());
}

TEST(OpenAiJsonTest, ACompletionHoldsAllThatWasSaid) {
  OpenAiAnswer answer("id", 5, /*logprobs=*/false, nullptr);
  AnswerEvent call;
  call.mutable_tool_call()->set_name("f");
  call.mutable_tool_call()->set_arguments_json(R"({"x":1})");
  AnswerEvent thought;
  thought.mutable_thought()->set_text("hm");
  for (const AnswerEvent& event : {Accepted(), thought, Text("a"), Text("b"), call, Finished()}) {
    answer.Collect(event);
  }
  const OrderedJson body = OrderedJson::parse(answer.Completion());
  const OrderedJson message = body["choices"][0]["message"];
  EXPECT_EQ(message["content"], "ab");
  EXPECT_EQ(message["reasoning"], "hm");
  EXPECT_EQ(message["tool_calls"][0]["function"]["arguments"], R"({"x":1})");
  EXPECT_EQ(body["object"], "chat.completion");
}

}  // namespace
}  // namespace facet::router
