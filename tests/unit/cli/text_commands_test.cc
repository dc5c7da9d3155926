#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/render_command.h"
#include "cli/tokenize_command.h"
#include "tests/support/small_tokenizer.h"

namespace facet {
namespace {

using testing::HasSubstr;

// A model directory that holds a small tokenizer and nothing else.
class TextCommandsTest : public testing::Test {
 protected:
  TextCommandsTest()
      : directory_(std::filesystem::path(testing::TempDir()) / "facet_text_commands_test") {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    std::ofstream(directory_ / "tokenizer.json") << SmallTokenizerJson();
  }

  ~TextCommandsTest() override { std::filesystem::remove_all(directory_); }

  // What the command wrote, or the message of its error.
  std::string Tokenized(const std::string& input, bool decode = false) {
    std::istringstream in(input);
    std::ostringstream out;
    const Status status =
        Tokenize({.model_directory = directory_.string(), .decode = decode}, in, out);
    return status.ok() ? out.str() : MessageOf(status);
  }

  std::string Rendered(const RenderOptions& options, const std::string& input) {
    std::istringstream in(input);
    std::ostringstream out;
    notes_.str("");
    const Status status = Render(options, in, out, notes_);
    return status.ok() ? out.str() : MessageOf(status);
  }

  const std::filesystem::path directory_;
  std::ostringstream notes_;
};

constexpr char kHi[] = R"({"messages": [{"role": "user", "content": "Hi"}]})";

TEST_F(TextCommandsTest, TokenizeAndDecodeAreInverse) {
  const std::string texts = "\"thought <turn|>\"\n\"\\n\xC3\xA4\"\n\"\"\n";
  EXPECT_EQ(Tokenized(Tokenized(texts), /*decode=*/true), texts);
}

TEST_F(TextCommandsTest, TokenizeNamesTheBadLine) {
  EXPECT_THAT(Tokenized("\"a\"\n\n7\n"), HasSubstr("line 3: a JSON string is expected"));
  EXPECT_THAT(Tokenized("[1]\n[100000]\n", /*decode=*/true), HasSubstr("line 2: token id 100000"));
  EXPECT_THAT(Tokenized("\"a\n"), HasSubstr("line 1: not valid JSON"));
}

TEST_F(TextCommandsTest, RenderUsesTheNamedTemplate) {
  EXPECT_EQ(Rendered({.model_directory = "", .template_name = "small"}, kHi),
            "{\"prompt\":\"<bos><|turn>user\\nHi<turn|>\\n<|turn>model\\n\"}\n");
  EXPECT_THAT(Rendered({.model_directory = "", .template_name = "small"}, "{}"),
              HasSubstr("line 1: messages is missing"));
}

TEST_F(TextCommandsTest, RenderGoesByTheShapeOfAModelWithoutTemplate) {
  const RenderOptions options{.model_directory = directory_.string(), .template_name = ""};
  EXPECT_THAT(Rendered(options, kHi), HasSubstr("<|channel>"));
  EXPECT_THAT(notes_.str(), HasSubstr("no chat template"));
  std::ofstream(directory_ / "config.json")
      << R"({"text_config": {"hidden_size_per_layer_input": 256}})";
  EXPECT_THAT(Rendered(options, kHi), testing::Not(HasSubstr("<|channel>")));
}

TEST_F(TextCommandsTest, CommandsRegisterWithAnExample) {
  CLI::App app;
  AddRenderCommand(app);
  AddTokenizeCommand(app);
  EXPECT_THAT(app.get_subcommand("render")->help(), HasSubstr("Example:"));
  EXPECT_THAT(app.get_subcommand("tokenize")->help(), HasSubstr("--decode"));
  EXPECT_THROW(app.parse("render"), CLI::ParseError);
}

}  // namespace
}  // namespace facet
