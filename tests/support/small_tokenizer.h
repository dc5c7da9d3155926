// A tokenizer.json of a few hundred pieces in the shape of Gemma 4's, for tests that need no real
// vocabulary: the markers of the chat format, all bytes, printable ASCII, newlines and the given
// merges.
#pragma once

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "text/tokenizer.h"

namespace facet {

using Merges = std::vector<std::pair<std::string, std::string>>;

// Merges of a few words, enough to make tokens of several characters.
inline Merges SmallMerges() {
  return {{"\n", "\n"},    {"t", "h"}, {"o", "u"},  {"\u2581", "a"}, {"th", "ou"},
          {"thou", "g"},   {"h", "t"}, {"l", "l"},  {"ll", "o"},     {"thoug", "ht"},
          {"\u2581", "b"}, {"e", "r"}, {"er", "e"}, {"th", "e"},     {"\u2581", "the"}};
}

inline nlohmann::json SmallTokenizerJson(const Merges& merges = SmallMerges()) {
  using nlohmann::json;
  json vocab = json::object();
  json added = json::array();
  const auto add = [&](const std::string& piece) {
    if (!vocab.contains(piece)) vocab[piece] = vocab.size();
  };
  const auto add_marker = [&](const std::string& piece, bool special) {
    add(piece);
    added.push_back({{"id", vocab[piece]},
                     {"content", piece},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  };
  for (const char* piece : {"<pad>", "<eos>", "<bos>", "<unk>", "<|tool>", "<tool|>", "<|think|>",
                            "<|turn>", "<turn|>", "<|image|>"}) {
    add_marker(piece, true);
  }
  for (const char* piece : {"<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
                            "<|\"|>", "<|channel>", "<channel|>"}) {
    add_marker(piece, false);
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    char piece[8];
    std::snprintf(piece, sizeof piece, "<0x%02X>", byte);
    add(piece);
  }
  add("\n");
  for (char c = '!'; c <= '~'; ++c) add(std::string(1, c));
  for (const char* piece : {"\u2581", "ä", "é", "中", "🙂"}) add(piece);
  json merge_list = json::array();
  for (const auto& [left, right] : merges) {
    add(left + right);
    merge_list.push_back({left, right});
  }
  return {
      {"added_tokens", added},
      {"normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}},
      {"pre_tokenizer",
       {{"type", "Split"},
        {"pattern", {{"String", " "}}},
        {"behavior", "MergedWithPrevious"},
        {"invert", false}}},
      {"post_processor", nullptr},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
          {{"type", "ByteFallback"}},
          {{"type", "Fuse"}}}}}},
      {"model",
       {{"type", "BPE"},
        {"unk_token", "<unk>"},
        {"fuse_unk", true},
        {"byte_fallback", true},
        {"vocab", vocab},
        {"merges", merge_list}}}};
}

inline Tokenizer SmallTokenizer(const Merges& merges = SmallMerges()) {
  StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(SmallTokenizerJson(merges).dump());
  FACET_CHECK(tokenizer.ok()) << MessageOf(tokenizer.status());
  return *std::move(tokenizer);
}

}  // namespace facet
