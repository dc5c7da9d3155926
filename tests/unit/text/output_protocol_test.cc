#include "text/output_protocol.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/small_tokenizer.h"

namespace facet {
namespace {

const Tokenizer& Small() {
  static const Tokenizer* const kTokenizer = new Tokenizer(SmallTokenizer());
  return *kTokenizer;
}

std::vector<int32_t> Ids(std::string_view text) { return Small().Encode(text).value(); }

// Joins neighbours and writes events so that they read at a glance.
std::string Describe(const std::vector<OutputEvent>& events) {
  std::string result;
  std::string kind;
  for (const OutputEvent& event : events) {
    std::string text;
    std::string name;
    if (const auto* thought = std::get_if<ThoughtDelta>(&event)) {
      name = "thought";
      text = thought->text;
    } else if (const auto* delta = std::get_if<TextDelta>(&event)) {
      name = "text";
      text = delta->text;
    } else {
      const auto& call = std::get<ToolCall>(event);
      name = call.complete ? "call" : "cut call";
      text = call.name + call.arguments_json;
    }
    EXPECT_FALSE(text.empty());
    if (name != kind || name.ends_with("call")) {
      result += (result.empty() ? "" : " | ") + name + ":";
      kind = name;
    }
    result += text;
  }
  return result;
}

// All events of an output, its ids given one by one.
std::string EventsOf(const std::vector<int32_t>& ids, std::string_view prompt = "") {
  OutputProtocol protocol(Small());
  protocol.StartAfter(Ids(prompt));
  std::vector<OutputEvent> events;
  for (const int32_t id : ids) {
    for (OutputEvent& event : protocol.Append(id)) events.push_back(std::move(event));
  }
  for (OutputEvent& event : protocol.Finish()) events.push_back(std::move(event));
  return Describe(events);
}

struct OutputCase {
  const char* name;
  const char* output;
  const char* want;
  const char* prompt = "";
};

class OutputTest : public testing::TestWithParam<OutputCase> {};

TEST_P(OutputTest, GivesTheEvents) {
  EXPECT_EQ(EventsOf(Ids(GetParam().output), GetParam().prompt), GetParam().want);
}

#define CALL(arguments) "<|tool_call>call:f{" arguments "}<tool_call|>"

const OutputCase kOutputCases[] = {
    {"text", "hello<turn|>", "text:hello"},
    {"thought_then_text", "<|channel>thought\nwhy\n\nso\n<channel|>because<turn|>",
     "thought:why\n\nso | text:because"},
    {"empty_thought", "<|channel>thought\n<channel|>hello", "text:hello"},
    {"thought_without_a_name", "<|channel>the<channel|>a", "thought:the | text:a"},
    {"thought_of_another_name", "<|channel>final\nx<channel|>", "thought:final\nx"},
    {"name_alone", "<|channel>thought<channel|>a", "text:a"},
    {"thought_that_never_ends", "<|channel>thought\nwhy", "thought:why"},
    {"call", CALL("a:<|\"|>x}<|\"|>") "<|tool_response>", R"(call:f{"a":"x}"})"},
    {"text_before_a_call", "wait\n" CALL(""), "text:wait\n | call:f{}"},
    {"several_calls", CALL("a:1") CALL("a:2"), R"(call:f{"a":1} | call:f{"a":2})"},
    {"call_ends_at_the_stop_token", "<|tool_call>call:f{a:1}<|tool_response>", R"(call:f{"a":1})"},
    {"call_ends_with_the_turn", "<|tool_call>call:f{a:1}<turn|>", R"(call:f{"a":1})"},
    {"call_ends_with_the_output", "<|tool_call>call:f{a:1}", R"(call:f{"a":1})"},
    {"call_ends_at_the_next", "<|tool_call>call:f{a:1}" CALL("a:2"),
     R"(call:f{"a":1} | call:f{"a":2})"},
    {"call_closed_twice", CALL("a:1") "<tool_call|>ok", R"(call:f{"a":1} | text:ok)"},
    {"call_without_last_quote", "<|tool_call>call:f{a:<|\"|>x}<tool_call|>",
     R"(cut call:f{"a":"x"})"},
    {"call_with_single_quotes", CALL("a:'x'"), R"(call:f{"a":"x"})"},
    {"call_in_a_thought", "<|channel>thought\nso " CALL("a:1") "on\n<channel|>x",
     R"(thought:so  | call:f{"a":1} | thought:on | text:x)"},
    {"call_that_is_none", "<|tool_call>f(<|\"|>x<|\"|>)<tool_call|>a", R"(text:f("x")a)"},
    {"markers_out_of_place", "a<tool_call|>b<channel|>c<|\"|>d<tool_response|>e<bos><|image|>f",
     "text:abcdef"},
    {"prompt_within_a_thought", "why\n<channel|>so", "thought:why | text:so",
     "<bos><|turn>model\n<tool_response|><|channel>thought\n"},
    {"prompt_within_the_name", "ght\nwhy<channel|>so", "thought:why | text:so",
     "<|turn>model\n<|channel>thou"},
    {"prompt_after_an_empty_thought", "so", "text:so",
     "<|turn>model\n<|channel>thought\n<channel|>"},
    {"prompt_after_another_turn", "so", "text:so", "<|channel>x<turn|>\n<|turn>model\n"},
    {"prompt_within_a_call", "2}<tool_call|>so", R"(call:f{"a":12} | text:so)",
     "<|turn>model\n" CALL("") "<|tool_call>call:f{a:1"},
    {"prompt_within_a_call_in_a_thought", "}<tool_call|>so", R"(call:f{} | thought:so)",
     "<|channel>thought\na<|tool_call>call:f{"},
    {"prompt_after_a_call", "so", "text:so", "<|turn>model\n<|tool_call>call:f{}<|tool_response>"},
};

INSTANTIATE_TEST_SUITE_P(Cases, OutputTest, testing::ValuesIn(kOutputCases), [](const auto& row) {
  return std::string(row.param.name);
});

TEST(OutputProtocolTest, TakesTheNameOfAThoughtInPieces) {
  std::vector<int32_t> ids = Ids("<|channel>");
  for (const char* piece : {"th", "ou", "g", "h", "t", "\n", "a"})
    ids.push_back(*Small().IdOf(piece));
  EXPECT_EQ(EventsOf(ids), "thought:a");
}

TEST(OutputProtocolTest, NeverEmitsHalfACharacter) {
  OutputProtocol protocol(Small());
  EXPECT_TRUE(protocol.Append(*Small().IdOf("<0xC3>")).empty());
  EXPECT_EQ(Describe(protocol.Append(*Small().IdOf("<0x9F>"))), "text:ß");
  EXPECT_TRUE(protocol.Append(*Small().IdOf("<0xC3>")).empty());
  EXPECT_EQ(Describe(protocol.Append(*Small().IdOf("<|channel>"))), "text:\uFFFD");
}

TEST(OutputProtocolTest, IsPlainTextWithoutMarkers) {
  nlohmann::json file = SmallTokenizerJson();
  for (auto& token : file["added_tokens"]) {  // Other names for the same ids.
    const std::string renamed = "<unused" + token["id"].dump() + ">";
    file["model"]["vocab"].erase(token["content"].get<std::string>());
    file["model"]["vocab"][renamed] = token["id"];
    token["content"] = renamed;
  }
  const StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << MessageOf(tokenizer.status());
  OutputProtocol protocol(*tokenizer);
  EXPECT_EQ(Describe(protocol.Append(*tokenizer->Encode("<|channel>thought\na"))),
            "text:<|channel>thought\na");
}

// Random ids, mostly markers: nothing leaks, and neither cutting nor replaying changes a thing.
TEST(OutputProtocolTest, GivesTheSameEventsHoweverTheIdsAreCut) {
  for (uint32_t seed = 1; seed <= 500; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::vector<int32_t> ids;
    for (size_t n = random() % 60; n > 0; --n) {
      const bool marker = random() % 2 == 0;
      ids.push_back(static_cast<int32_t>(
          random() % static_cast<uint32_t>(marker ? 17 : Small().vocab_size())));
      if (random() % 8 == 0) {
        for (const int32_t id : Ids("<|tool_call>call:f{a:")) ids.push_back(id);
      }
    }
    OutputProtocol protocol(Small());
    std::vector<OutputEvent> events;
    for (size_t at = 0; at < ids.size();) {
      const size_t length = std::min(1 + random() % 9, ids.size() - at);
      for (OutputEvent& event : protocol.Append(std::span(ids).subspan(at, length))) {
        events.push_back(std::move(event));
      }
      at += length;
    }
    for (OutputEvent& event : protocol.Finish()) events.push_back(std::move(event));
    const std::string described = Describe(events);
    EXPECT_EQ(described, EventsOf(ids));
    EXPECT_EQ(described.find("<|"), std::string::npos) << described;
    for (const OutputEvent& event : events) {
      const auto* call = std::get_if<ToolCall>(&event);
      EXPECT_TRUE(call == nullptr || nlohmann::json::accept(call->arguments_json)) << described;
    }
  }
}

}  // namespace
}  // namespace facet
