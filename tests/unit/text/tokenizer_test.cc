#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "tests/support/small_tokenizer.h"
#include "text/utf8.h"

namespace facet {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// The pieces of a text, which read better than ids.
std::vector<std::string> Pieces(const Tokenizer& tokenizer,
                                std::string_view text,
                                EncodeOptions options = {}) {
  const StatusOr<std::vector<int32_t>> ids = tokenizer.Encode(text, options);
  if (!ids.ok()) return {MessageOf(ids.status())};
  std::vector<std::string> pieces;
  for (const int32_t id : *ids) pieces.emplace_back(tokenizer.Piece(id));
  return pieces;
}

struct EncodeCase {
  const char* name;
  const char* text;
  std::vector<std::string> want;
};

class EncodeTest : public testing::TestWithParam<EncodeCase> {};

TEST_P(EncodeTest, GivesThePieces) {
  EXPECT_EQ(Pieces(SmallTokenizer(), GetParam().text), GetParam().want);
}

const EncodeCase kEncodeCases[] = {
    {.name = "nothing", .text = "", .want = {}},
    {.name = "best_rank_first", .text = "thought", .want = {"thought"}},
    {.name = "spaces_become_marks", .text = " the a", .want = {"\u2581the", "\u2581a"}},
    {.name = "leftmost_of_equals", .text = "lll", .want = {"ll", "l"}},
    {.name = "newline_runs", .text = "\n\n\na", .want = {"\n\n", "\n", "a"}},
    {.name = "unknown_characters_become_bytes", .text = "aß", .want = {"a", "<0xC3>", "<0x9F>"}},
    {.name = "added_tokens_cut_the_text", .text = "th<turn|>ere", .want = {"th", "<turn|>", "ere"}},
    {.name = "half_an_added_token_is_text",
     .text = "<turn|",
     .want = {"<", "t", "u", "r", "n", "|"}},
    {.name = "the_longest_added_token_wins", .text = "<|tool_call>", .want = {"<|tool_call>"}},
};

INSTANTIATE_TEST_SUITE_P(Cases, EncodeTest, testing::ValuesIn(kEncodeCases), [](const auto& row) {
  return std::string(row.param.name);
});

TEST(TokenizerTest, DoesNotParseAddedTokensIfToldSo) {
  const auto pieces = Pieces(SmallTokenizer(), "<bos>", {.parse_added_tokens = false});
  EXPECT_THAT(pieces, ElementsAre("<", "b", "o", "s", ">"));
}

TEST(TokenizerTest, NamesTheByteThatIsNotUtf8) {
  const StatusOr<std::vector<int32_t>> ids = SmallTokenizer().Encode("ab<bos>ä\xC3(");
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(ids.status()), HasSubstr("at byte 9"));
}

TEST(TokenizerTest, KnowsWhatAnIdStandsFor) {
  const Tokenizer tokenizer = SmallTokenizer();
  EXPECT_EQ(tokenizer.Bytes(*tokenizer.IdOf("\u2581the")), " the");
  EXPECT_EQ(tokenizer.Bytes(*tokenizer.IdOf("<0xE2>")), "\xE2");
  EXPECT_TRUE(tokenizer.IsSpecial(*tokenizer.IdOf("<bos>")));
  EXPECT_TRUE(tokenizer.IsAdded(*tokenizer.IdOf("<|\"|>")));
  EXPECT_FALSE(tokenizer.IsSpecial(*tokenizer.IdOf("<|\"|>")));
  EXPECT_EQ(tokenizer.IdOf("no such piece"), std::nullopt);
  EXPECT_EQ(tokenizer.Bytes(-1), "");
  EXPECT_EQ(tokenizer.Bytes(tokenizer.vocab_size()), "");
}

// Byte-pair encoding as its definition has it: again and again, the best pair of the whole text.
std::vector<std::string> EncodeSlowly(const Merges& merges, std::string_view text) {
  std::vector<std::string> symbols;
  while (!text.empty()) {
    const size_t length = NextUtf8(text).length;
    symbols.emplace_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t i = 0; i < merges.size(); ++i) ranks[merges[i]] = i;
  for (;;) {
    size_t best_rank = merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto rank = ranks.find({symbols[i], symbols[i + 1]});
      if (rank != ranks.end() && rank->second < best_rank) {
        best_rank = rank->second;
        best = i;
      }
    }
    if (best_rank == merges.size()) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

// Random merge tables over four letters: long words, cuts and ties all occur.
TEST(TokenizerTest, AgreesWithTheDefinitionOnRandomMergesAndTexts) {
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::vector<std::string> pieces = {"a", "b", "c", "ä"};
    const std::vector<std::string> letters = pieces;
    Merges merges;
    for (uint32_t i = 0; i < 4 + seed % 20; ++i) {
      const std::string left = pieces[random() % pieces.size()];
      const std::string right = pieces[random() % pieces.size()];
      if (std::find(merges.begin(), merges.end(), std::pair(left, right)) != merges.end()) continue;
      merges.emplace_back(left, right);
      pieces.push_back(left + right);
    }
    const Tokenizer tokenizer = SmallTokenizer(merges);
    for (int round = 0; round < 20; ++round) {
      std::string text;
      for (size_t n = random() % 90; n > 0; --n) text += letters[random() % letters.size()];
      ASSERT_EQ(Pieces(tokenizer, text), EncodeSlowly(merges, text)) << text;
    }
    for (const std::string& letter : letters) {  // Degenerate text, as one word.
      std::string text;
      for (size_t n = 200 + random() % 100; n > 0; --n) text += letter;
      ASSERT_EQ(Pieces(tokenizer, text), EncodeSlowly(merges, text)) << text;
    }
  }
}

}  // namespace
}  // namespace facet
