#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/small_tokenizer.h"
#include "text/utf8.h"

namespace facet {
namespace {

std::vector<int32_t> IdsOf(const Tokenizer& tokenizer, const std::vector<std::string>& pieces) {
  std::vector<int32_t> ids;
  ids.reserve(pieces.size());
  for (const std::string& piece : pieces) ids.push_back(tokenizer.IdOf(piece).value_or(-1));
  return ids;
}

struct DecodeCase {
  const char* name;
  std::vector<std::string> pieces;
  const char* shown;
  const char* skipped;  // without special tokens
};

class DecodeTest : public testing::TestWithParam<DecodeCase> {};

TEST_P(DecodeTest, GivesTheText) {
  const Tokenizer tokenizer = SmallTokenizer();
  const std::vector<int32_t> ids = IdsOf(tokenizer, GetParam().pieces);
  EXPECT_EQ(tokenizer.Decode(ids), GetParam().shown);
  EXPECT_EQ(tokenizer.Decode(ids, SpecialTokens::kSkip), GetParam().skipped);
}

// A run of bytes that makes no character gives one U+FFFD each, as Hugging Face's decoder does.
const DecodeCase kDecodeCases[] = {
    {"spaces", {"\u2581the", "\u2581a"}, " the a", " the a"},
    {"special", {"<bos>", "a", "<turn|>"}, "<bos>a<turn|>", "a"},
    {"bytes", {"<0xE2>", "<0x82>", "<0xAC>"}, "€", "€"},
    {"cut_character", {"<0xE2>", "<0x82>", "a"}, "\uFFFD\uFFFDa", "\uFFFD\uFFFDa"},
    {"end_within_a_character", {"a", "<0xE2>", "<0x82>"}, "a\uFFFD\uFFFD", "a\uFFFD\uFFFD"},
    {"stray_continuation", {"<0x82>", "a"}, "\uFFFDa", "\uFFFDa"},
    {"surrogate", {"<0xED>", "<0xA0>", "<0x80>"}, "\uFFFD\uFFFD\uFFFD", "\uFFFD\uFFFD\uFFFD"},
    {"special_within_a_character", {"<0xC3>", "<bos>", "<0x9F>"}, "\uFFFD<bos>\uFFFD", "ß"},
    {"an_id_that_is_none", {"a", "no such piece", "b"}, "ab", "ab"},
};

INSTANTIATE_TEST_SUITE_P(Cases, DecodeTest, testing::ValuesIn(kDecodeCases), [](const auto& row) {
  return std::string(row.param.name);
});

TEST(DetokenizerTest, HoldsACharacterBackUntilItIsWhole) {
  const Tokenizer tokenizer = SmallTokenizer();
  Detokenizer detokenizer(tokenizer);
  EXPECT_EQ(detokenizer.Append(*tokenizer.IdOf("<0xF0>")), "");
  EXPECT_EQ(detokenizer.Append(*tokenizer.IdOf("<0x9F>")), "");
  EXPECT_EQ(detokenizer.Append(*tokenizer.IdOf("<0x8D>")), "");
  EXPECT_EQ(detokenizer.Append(*tokenizer.IdOf("<0x80>")), "\U0001F340");
  EXPECT_EQ(detokenizer.Finish(), "");
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (step.kind != Utf8Step::Kind::kCharacter) return false;
    text.remove_prefix(step.length);
  }
  return true;
}

TEST(DetokenizerTest, EmitsWholeCharactersThatAddUpToDecode) {
  const Tokenizer tokenizer = SmallTokenizer();
  for (uint32_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::vector<int32_t> ids(random() % 40);
    for (int32_t& id : ids) {  // The bytes of every length class are common.
      id = static_cast<int32_t>(random() % static_cast<uint32_t>(tokenizer.vocab_size()));
    }
    Detokenizer detokenizer(tokenizer, SpecialTokens::kShow);
    std::string text;
    for (const int32_t id : ids) {
      const std::string part = detokenizer.Append(id);
      EXPECT_TRUE(IsUtf8(part));
      text += part;
    }
    text += detokenizer.Finish();
    EXPECT_EQ(text, tokenizer.Decode(ids));
    EXPECT_TRUE(IsUtf8(text));
  }
}

}  // namespace
}  // namespace facet
