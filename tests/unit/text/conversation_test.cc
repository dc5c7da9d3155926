#include "text/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace facet {
namespace {

using testing::HasSubstr;

struct BadCase {
  const char* name;
  const char* json;
  const char* want;  // part of the message
};

class BadConversationTest : public testing::TestWithParam<BadCase> {};

TEST_P(BadConversationTest, IsRefusedByTheNameOfItsField) {
  const Status status = ParseConversationJson(std::string_view(GetParam().json)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(status), HasSubstr(GetParam().want));
}

const BadCase kBadCases[] = {
    {"not_json", R"({"messages": )", "not valid JSON at byte"},
    {"huge_number", R"({"messages": 1e999})", "too large"},
    {"not_an_object", "[]", "the conversation must be an object, not an array"},
    {"no_messages", "{}", "messages is missing"},
    {"empty_messages", R"({"messages": []})", "messages is empty"},
    {"unknown_field", R"({"messages": [{"role": "user"}], "topk": 1})", "topk is not a known"},
    {"unknown_message_field", R"({"messages": [{"role": "user", "contents": "x"}]})",
     "messages[0].contents is not a known field"},
    {"no_role", R"({"messages": [{"content": "x"}]})", "messages[0].role is missing"},
    {"unknown_role", R"({"messages": [{"role": "user"}, {"role": "bot"}]})",
     R"(messages[1].role is "bot")"},
    {"content_of_a_wrong_type", R"({"messages": [{"role": "user", "content": 7}]})",
     "messages[0].content must be a string or an array of parts, not a number"},
    {"unknown_part", R"({"messages": [{"role": "user", "content": [{"type": "file"}]}]})",
     R"(messages[0].content[0].type is "file")"},
    {"part_without_text", R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})",
     "messages[0].content[0].text is missing"},
    {"arguments_as_a_string",
     R"({"messages": [{"role": "assistant", "tool_calls": [{"function":
         {"name": "f", "arguments": "{}"}}]}]})",
     "messages[0].tool_calls[0].function.arguments must be a JSON object, not a string"},
    {"call_without_name",
     R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]})",
     "messages[0].tool_calls[0].function.name is missing"},
    {"call_of_a_user",
     R"({"messages": [{"role": "user", "tool_calls": [{"function": {"name": "f"}}]}]})",
     "messages[0].tool_calls belongs to the assistant"},
    {"tool_without_name", R"({"messages": [{"role": "user"}], "tools": [{"function": {}}]})",
     "tools[0].function.name is missing"},
    {"tool_of_another_type",
     R"({"messages": [{"role": "user"}], "tools": [{"type": "retrieval"}]})",
     R"(tools[0].type is "retrieval")"},
    {"switch_that_is_no_boolean", R"({"messages": [{"role": "user"}], "enable_thinking": "yes"})",
     "enable_thinking must be true or false, not a string"},
};

INSTANTIATE_TEST_SUITE_P(Cases,
                         BadConversationTest,
                         testing::ValuesIn(kBadCases),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(ConversationTest, TakesNullForAbsent) {
  const auto conversation = ParseConversationJson(std::string_view(
      R"({"messages": [{"role": "assistant", "content": null, "refusal": null,
          "reasoning": "", "reasoning_content": "why"}], "tools": null})"));
  ASSERT_TRUE(conversation.ok()) << MessageOf(conversation.status());
  EXPECT_EQ(conversation->messages[0].content.kind, Content::Kind::kNull);
  EXPECT_EQ(conversation->messages[0].reasoning, "why");
}

TEST(ConversationTest, BoundsDepthAndMembers) {
  EXPECT_THAT(MessageOf(ParseBoundedJson(std::string(1000000, '[')).status()),
              HasSubstr("nests deeper than 64"));
  std::string wide = "{";
  for (size_t i = 0; i <= kJsonMembersMax; ++i) wide += StrCat(i > 0 ? "," : "", "\"k", i, "\":0");
  EXPECT_THAT(MessageOf(ParseBoundedJson(wide + "}").status()), HasSubstr("more than 512 members"));
  EXPECT_TRUE(ParseBoundedJson("[" + std::string(3000, ' ') + R"("{,,,[\"[", {"a": 1}])").ok());
}

}  // namespace
}  // namespace facet
