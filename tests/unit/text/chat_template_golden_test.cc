// 400 conversations against Google's chat templates as Jinja renders them.
#include <gtest/gtest.h>

#include "tests/support/golden_file.h"
#include "text/chat_template.h"

namespace facet {
namespace {

TEST(ChatTemplateGoldenTest, RendersAsThePublishedTemplates) {
  const auto lines = ReadXzLines("tests/golden/text/conversations.jsonl.xz");
  if (!lines) {
    std::puts(kNoVocabulary);
    GTEST_SKIP() << kNoVocabulary;
  }
  ASSERT_EQ(lines->size(), 400u);
  for (const std::string& line : *lines) {
    OrderedJson golden = OrderedJson::parse(line);
    const std::string small = golden["small"];
    const std::string large = golden["large"];
    golden.erase("small");
    golden.erase("large");
    const StatusOr<Conversation> conversation = ParseConversation(golden);
    ASSERT_TRUE(conversation.ok()) << MessageOf(conversation.status()) << "\n" << line;
    ASSERT_EQ(RenderChat(*conversation, TemplateVariant::kSmall).value(), small) << line;
    ASSERT_EQ(RenderChat(*conversation, TemplateVariant::kLarge).value(), large) << line;
  }
}

}  // namespace
}  // namespace facet
