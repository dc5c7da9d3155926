#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace facet {
namespace {

using testing::HasSubstr;

// The prompt, or the error's message.
std::string Render(std::string_view conversation_json,
                   TemplateVariant variant = TemplateVariant::kSmall) {
  const StatusOr<Conversation> conversation = ParseConversationJson(conversation_json);
  if (!conversation.ok()) return MessageOf(conversation.status());
  const StatusOr<std::string> prompt = RenderChat(*conversation, variant);
  return prompt.ok() ? *prompt : MessageOf(prompt.status());
}

constexpr char kHi[] = R"({"role": "user", "content": " Hi "})";
constexpr char kCall[] = R"({"role": "assistant", "content": null, "tool_calls": [{"id": "1",
    "type": "function", "function": {"name": "get_weather", "arguments":
    {"opt": {"y": null, "x": true}, "f": 1.5, "days": [1, 2], "city": "Paris"}}}]})";
constexpr char kResult[] = R"({"role": "tool", "tool_call_id": "1", "content": "sunny"})";
constexpr char kCalled[] =
    "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|tool_call>call:get_weather{city:<|\"|>Paris<|\"|>"
    ","
    "days:[1,2],f:1.5,opt:{x:true,y:null}}<tool_call|>";
constexpr char kAnswered[] =
    "<|tool_response>response:get_weather{value:<|\"|>sunny<|\"|>}<tool_response|>";

std::string Messages(const std::vector<std::string>& messages, std::string_view more = "") {
  std::string list;
  for (const std::string& message : messages) list += (list.empty() ? "" : ",") + message;
  return StrCat("{\"messages\": [", list, "]", more, "}");
}

TEST(ChatTemplateTest, EndsTheLargePromptWithAnEmptyThought) {
  EXPECT_EQ(Render(Messages({kHi})), "<bos><|turn>user\nHi<turn|>\n<|turn>model\n");
  EXPECT_EQ(Render(Messages({kHi}), TemplateVariant::kLarge),
            "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>");
}

TEST(ChatTemplateTest, AsksForThinkingInTheSystemTurn) {
  const std::string want =
      "<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n";
  EXPECT_EQ(Render(Messages({kHi}, R"(, "enable_thinking": true)")), want);
  EXPECT_EQ(Render(Messages({kHi}, R"(, "enable_thinking": true)"), TemplateVariant::kLarge), want);
}

TEST(ChatTemplateTest, JoinsConsecutiveMessagesOfTheModel) {
  EXPECT_EQ(Render(Messages({kHi, R"({"role": "assistant", "content": "a"})",
                             R"({"role": "assistant", "content": "b"})",
                             R"({"role": "user", "content": "x"})"})),
            "<bos><|turn>user\nHi<turn|>\n<|turn>model\nab<turn|>\n<|turn>user\nx<turn|>\n"
            "<|turn>model\n");
}

TEST(ChatTemplateTest, PutsPlaceholdersForMedia) {
  EXPECT_EQ(Render(Messages({R"({"role": "user", "content": [{"type": "image_url"},
                 {"type": "text", "text": " What? "}, {"type": "input_audio"}]})"})),
            "<bos><|turn>user\n<|image|>What?<|audio|><turn|>\n<|turn>model\n");
}

TEST(ChatTemplateTest, LeavesACallWithoutResultWaitingForIt) {
  EXPECT_EQ(Render(Messages({kHi, kCall})), std::string(kCalled) + "<|tool_response>");
}

TEST(ChatTemplateTest, KeepsTheTurnOpenAfterAResult) {
  EXPECT_EQ(Render(Messages({kHi, kCall, kResult})), std::string(kCalled) + kAnswered);
  const std::string thinking =
      Render(Messages({kHi, kCall, kResult}, R"(,"enable_thinking":true)"));
  EXPECT_TRUE(thinking.ends_with(std::string(kAnswered) + "<|channel>thought\n")) << thinking;
}

TEST(ChatTemplateTest, ClosesTheTurnAfterTheAnswer) {
  EXPECT_EQ(
      Render(Messages({kHi, kCall, kResult, R"({"role": "assistant", "content": "It is sunny."})",
                       R"({"role": "user", "content": "ok"})"})),
      std::string(kCalled) + kAnswered +
          "It is sunny.<turn|>\n<|turn>user\nok<turn|>\n<|turn>model\n");
}

struct DeclarationCase {
  const char* name;
  const char* function;
  const char* want;
};

class DeclarationTest : public testing::TestWithParam<DeclarationCase> {};

TEST_P(DeclarationTest, DeclaresTheTool) {
  const std::string prompt =
      Render(Messages({kHi}, StrCat(R"(, "tools": [{"type": "function", "function": )",
                                    GetParam().function, "}]")));
  EXPECT_EQ(prompt.substr(0, prompt.find("<turn|>")),
            StrCat("<bos><|turn>system\n<|tool>declaration:", GetParam().want, "<tool|>"));
}

const DeclarationCase kDeclarationCases[] = {
    {.name = "no_parameters",
     .function = R"({"name": "f", "description": "d"})",
     .want = R"(f{description:<|"|>d<|"|>})"},
    {.name = "no_properties",
     .function = R"({"name": "noargs", "description": "d",
                     "parameters": {"type": "object", "properties": {}, "required": []}})",
     .want = R"(noargs{description:<|"|>d<|"|>,parameters:{type:<|"|>OBJECT<|"|>}})"},
    {.name = "no_description_and_no_type",
     .function = R"({"name": "f", "parameters": {"properties": {"a": {}}}})",
     .want = R"(f{description:<|"|><|"|>,parameters:{properties:{a:{type:<|"|><|"|>}},)"
             R"(type:<|"|>OBJECT<|"|>}})"},
    {.name = "four_kinds_of_property",
     .function = R"({"name": "f", "description": "d", "parameters": {"type": "object",
         "properties": {
           "unit": {"type": "string", "enum": ["c", "f"]},
           "opt": {"type": "object", "properties": {"x": {"type": "boolean", "nullable": true}},
                   "required": ["x"]},
           "days": {"type": "array", "items": {"type": "integer"}},
           "city": {"type": "string", "description": "City"}},
         "required": ["city"]}})",
     .want =
         R"(f{description:<|"|>d<|"|>,parameters:{properties:{city:{description:<|"|>City<|"|>,)"
         R"(type:<|"|>STRING<|"|>},days:{items:{type:<|"|>INTEGER<|"|>},type:<|"|>ARRAY<|"|>},)"
         R"(opt:{properties:{x:{nullable:true,type:<|"|>BOOLEAN<|"|>}},required:[<|"|>x<|"|>],)"
         R"(type:<|"|>OBJECT<|"|>},unit:{enum:[<|"|>c<|"|>,<|"|>f<|"|>],type:<|"|>STRING<|"|>}},)"
         R"(required:[<|"|>city<|"|>],type:<|"|>OBJECT<|"|>}})"},
    {.name = "several_types_look_as_in_python",
     .function = R"({"name": "f", "description": "d", "parameters": {"type": "object",
         "properties": {"a": {"type": ["string", "null"]}}}})",
     .want = R"(f{description:<|"|>d<|"|>,parameters:{properties:{a:{type:<|"|>['STRING', 'NULL'])"
             R"(<|"|>}},type:<|"|>OBJECT<|"|>}})"},
    {.name = "object_without_properties_shows_its_other_keywords",
     .function = R"({"name": "f", "description": "d", "parameters": {"type": "object",
         "properties": {"a": {"type": "object", "title": "A", "description": "x"}}}})",
     .want = R"(f{description:<|"|>d<|"|>,parameters:{properties:{a:{description:<|"|>x<|"|>,)"
             R"(properties:{title:{type:<|"|><|"|>}},type:<|"|>OBJECT<|"|>}},)"
             R"(type:<|"|>OBJECT<|"|>}})"},
    {.name = "response",
     .function = R"({"name": "f", "description": "d",
                     "response": {"description": "r", "type": "object"}})",
     .want = R"(f{description:<|"|>d<|"|>,response:{description:<|"|>r<|"|>,)"
             R"(type:<|"|>OBJECT<|"|>}})"},
};

INSTANTIATE_TEST_SUITE_P(Cases,
                         DeclarationTest,
                         testing::ValuesIn(kDeclarationCases),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(ChatTemplateTest, NamesTheSchemaItCannotDeclare) {
  EXPECT_THAT(Render(Messages({kHi}, R"(, "tools": [{"function": {"name": "f",
                  "parameters": {"required": true}}}])")),
              HasSubstr("tools[0].function: required must be an array"));
}

TEST(ChatTemplateTest, RefusesArgumentsThatNestTooDeep) {
  Conversation conversation;
  OrderedJson deep = 1;
  for (size_t i = 0; i <= kJsonDepthMax; ++i) deep = OrderedJson::array({std::move(deep)});
  Message& message = conversation.messages.emplace_back();
  message.role = Role::kAssistant;
  message.tool_calls.push_back({.id = {}, .name = "f", .arguments = {{"a", deep}}});
  EXPECT_THAT(MessageOf(RenderChat(conversation, TemplateVariant::kSmall).status()),
              HasSubstr("messages[0].tool_calls[0].function.arguments nests deeper"));
}

constexpr char kKnown[] = "{# Published: 2026-07-09 #} preserve_thinking continues_into_next ";
constexpr char kLargeMark[] = R"({{- '<|channel>thought\n<channel|>' -}})";

TEST(DetectTemplateTest, TellsTheVariantOfTheKnownRevision) {
  const DetectedTemplate small = DetectTemplateText(kKnown, TemplateVariant::kLarge);
  EXPECT_EQ(small.variant, TemplateVariant::kSmall);
  EXPECT_EQ(small.warning, "");
  EXPECT_EQ(DetectTemplateText(std::string(kKnown) + kLargeMark, TemplateVariant::kSmall).variant,
            TemplateVariant::kLarge);
}

TEST(DetectTemplateTest, WarnsOfAnotherRevisionAndGoesByShape) {
  const DetectedTemplate other = DetectTemplateText(kLargeMark, TemplateVariant::kSmall);
  EXPECT_EQ(other.variant, TemplateVariant::kSmall);
  EXPECT_THAT(other.warning, HasSubstr("not the revision of 2026-07-09"));
}

TEST(DetectTemplateTest, ReadsEitherFileOfADirectory) {
  const std::filesystem::path directory =
      std::filesystem::path(testing::TempDir()) / "facet_detect_template_test";
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  EXPECT_THAT(DetectTemplate(directory, TemplateVariant::kLarge).warning,
              HasSubstr("no chat template"));
  const OrderedJson config = {{"chat_template", std::string(kKnown) + kLargeMark}};
  std::ofstream(directory / "tokenizer_config.json") << config;
  EXPECT_EQ(DetectTemplate(directory, TemplateVariant::kSmall).variant, TemplateVariant::kLarge);
  std::ofstream(directory / "chat_template.jinja") << kKnown;
  EXPECT_EQ(DetectTemplate(directory, TemplateVariant::kLarge).variant, TemplateVariant::kSmall);
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace facet
