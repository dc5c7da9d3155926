// The published vocabulary against what Hugging Face's tokenizers make of 5,000 strings.
#include <gtest/gtest.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tests/support/golden_file.h"
#include "text/tokenizer.h"

namespace facet {
namespace {

using nlohmann::json;

class TokenizerGoldenTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const auto file = ReadXz("tests/golden/text/gemma4_tokenizer.json.xz");
    if (!file) return;
    StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(*file);
    ASSERT_TRUE(tokenizer.ok()) << MessageOf(tokenizer.status());
    tokenizer_ = new Tokenizer(*std::move(tokenizer));
  }

  static void TearDownTestSuite() {
    delete tokenizer_;
    tokenizer_ = nullptr;
  }

  void SetUp() override {
    cases_ = ReadXzLines("tests/golden/text/tokenize_cases.jsonl.xz");
    if (tokenizer_ != nullptr && cases_) return;
    std::puts(kNoVocabulary);
    GTEST_SKIP() << kNoVocabulary;
  }

  static Tokenizer* tokenizer_;
  std::optional<std::vector<std::string>> cases_;
};

Tokenizer* TokenizerGoldenTest::tokenizer_ = nullptr;

TEST_F(TokenizerGoldenTest, GivesTheIdsOfHuggingFace) {
  ASSERT_EQ(cases_->size(), 5000u);
  for (const std::string& line : *cases_) {
    const json golden = json::parse(line);
    const auto ids = tokenizer_->Encode(golden["text"].get<std::string>());
    ASSERT_TRUE(ids.ok()) << line;
    ASSERT_EQ(json(*ids), golden["ids"]) << line;
  }
}

TEST_F(TokenizerGoldenTest, DecodesBackToTheText) {
  for (const std::string& line : *cases_) {
    const json golden = json::parse(line);
    std::string want = golden["text"];
    for (size_t at; (at = want.find("\u2581")) != std::string::npos;) {
      want.erase(at, 2);
      want[at] = ' ';
    }
    ASSERT_EQ(tokenizer_->Decode(golden["ids"].get<std::vector<int32_t>>()), want) << line;
  }
}

TEST_F(TokenizerGoldenTest, HasTheMarkersAtTheirPublishedIds) {
  EXPECT_EQ(tokenizer_->vocab_size(), 262144);
  EXPECT_EQ(tokenizer_->bos_id(), 2);
  EXPECT_EQ(tokenizer_->IdOf("<|tool_call>"), 48);
  EXPECT_EQ(tokenizer_->IdOf("<|\"|>"), 52);
  EXPECT_EQ(tokenizer_->IdOf("<|channel>"), 100);
  EXPECT_EQ(tokenizer_->IdOf("<turn|>"), 106);
  EXPECT_EQ(tokenizer_->IdOf("\n\n"), 108);
  EXPECT_FALSE(tokenizer_->adds_bos());
}

}  // namespace
}  // namespace facet
