#include "text/tokenizer_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/small_tokenizer.h"

namespace facet {
namespace {

using nlohmann::json;
using testing::HasSubstr;

struct RefusalCase {
  const char* name;
  const char* pointer;  // JSON pointer of what is replaced
  json value;
  const char* want;  // part of the message
};

void PrintTo(const RefusalCase& refusal, std::ostream* out) { *out << refusal.name; }

class RefusalTest : public testing::TestWithParam<RefusalCase> {};

TEST_P(RefusalTest, NamesTheFieldItDoesNotSupport) {
  json file = SmallTokenizerJson();
  file[json::json_pointer(GetParam().pointer)] = GetParam().value;
  const Status status = Tokenizer::Parse(file.dump()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(status), HasSubstr(GetParam().want));
}

const RefusalCase kRefusalCases[] = {
    {"another_model", "/model/type", "Unigram", "model.type"},
    {"dropout", "/model/dropout", 0.1, "model.dropout"},
    {"word_suffix", "/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
    {"no_byte_fallback", "/model/byte_fallback", false, "byte_fallback"},
    {"another_normalizer", "/normalizer/type", "NFC", "normalizer"},
    {"no_normalizer", "/normalizer", nullptr, "normalizer"},
    {"another_pre_tokenizer", "/pre_tokenizer/type", "ByteLevel", "pre_tokenizer"},
    {"another_decoder", "/decoder/type", "ByteLevel", "decoder"},
    {"another_post_processor", "/post_processor", {{"type", "BertProcessing"}}, "post_processor"},
    {"added_token_that_strips", "/added_tokens/2/lstrip", true, "added_tokens[2]: lstrip"},
    {"added_token_elsewhere", "/added_tokens/2/id", 5, "added_tokens[2]"},
    {"added_token_without_content", "/added_tokens/2/content", "", "added_tokens[2]: content"},
    {"merge_of_three", "/model/merges/1", {"a", "b", "c"}, "model.merges"},
    {"merge_without_space", "/model/merges/1", "ab", "model.merges"},
    {"merge_of_unknown_pieces", "/model/merges/1", {"a", "b"}, "model.merges[1]"},
    {"merge_of_a_number", "/model/merges/1", 7, "model.merges"},
    {"huge_id", "/model/vocab/a", 4000000000u, "model.vocab"},
    {"same_id_twice", "/model/vocab/a", 5, "model.vocab"},
    {"id_that_is_no_number", "/model/vocab/a", "5", "model.vocab"},
    {"negative_id", "/model/vocab/a", -5, "negative"},
    {"bytes_missing", "/model/vocab", {{"a", 400}}, "<0x00>"},
    {"no_vocabulary", "/model/vocab", nullptr, "model.vocab"},
};

INSTANTIATE_TEST_SUITE_P(Cases, RefusalTest, testing::ValuesIn(kRefusalCases), [](const auto& row) {
  return std::string(row.param.name);
});

TEST(TokenizerFileTest, RefusesWhatIsNotJson) {
  EXPECT_THAT(MessageOf(ParseTokenizerFile("{\"model\": ").status()), HasSubstr("at byte"));
  EXPECT_FALSE(ParseTokenizerFile("").ok());
  EXPECT_FALSE(ParseTokenizerFile("[]").ok());
  EXPECT_THAT(MessageOf(ParseTokenizerFile(std::string(100000, '[')).status()),
              HasSubstr("nested deeper"));
}

TEST(TokenizerFileTest, ReadsMergesWrittenAsOneString) {
  json file = SmallTokenizerJson();
  for (json& merge : file["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  EXPECT_EQ(ParseTokenizerFile(file.dump())->merges, SmallMerges());
}

TEST(TokenizerFileTest, ReadsBosFromThePostProcessor) {
  json file = SmallTokenizerJson();
  file["post_processor"] = {{"type", "TemplateProcessing"},
                            {"single",
                             {{{"SpecialToken", {{"id", "<bos>"}, {"type_id", 0}}}},
                              {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}}};
  EXPECT_TRUE(Tokenizer::Parse(file.dump())->adds_bos());
}

TEST(TokenizerFileTest, ReadsBosFromTheConfigBesideIt) {
  const std::filesystem::path directory =
      std::filesystem::path(testing::TempDir()) / "facet_tokenizer_file_test";
  std::filesystem::create_directories(directory);
  std::ofstream(directory / "tokenizer.json") << SmallTokenizerJson();
  std::filesystem::remove(directory / "tokenizer_config.json");
  EXPECT_FALSE(Tokenizer::Load(directory / "tokenizer.json")->adds_bos());
  std::ofstream(directory / "tokenizer_config.json") << R"({"add_bos_token": true})";
  EXPECT_TRUE(Tokenizer::Load(directory / "tokenizer.json")->adds_bos());
  std::ofstream(directory / "tokenizer_config.json") << R"({"add_bos_token": "yes"})";
  EXPECT_THAT(MessageOf(Tokenizer::Load(directory / "tokenizer.json").status()),
              HasSubstr("add_bos_token"));
  std::filesystem::remove_all(directory);
}

TEST(TokenizerFileTest, SaysWhichFileIsMissing) {
  const Status status = Tokenizer::Load("/nowhere/tokenizer.json").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(MessageOf(status), HasSubstr("/nowhere/tokenizer.json"));
}

TEST(TokenizerFileTest, MatchesNormalizedAddedTokensAfterTheOthers) {
  json file = SmallTokenizerJson();
  const size_t id = file["model"]["vocab"].size();
  file["added_tokens"].push_back(
      {{"id", id}, {"content", "a <bos"}, {"normalized", true}, {"special", false}});
  const StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << MessageOf(tokenizer.status());
  EXPECT_EQ(tokenizer->Encode("a <bos")->size(), 1u);
  EXPECT_EQ(tokenizer->Encode("a <bos>")->back(), tokenizer->bos_id());
}

}  // namespace
}  // namespace facet
