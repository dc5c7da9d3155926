// Reads Hugging Face's tokenizer.json and refuses, by name, everything that Facet's BPE does not do
// exactly as the file asks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace facet {

// A token that is matched whole in the text, before any merging.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;     // Left out of decoded text unless asked for.
  bool normalized = false;  // Matched after spaces became U+2581, not before.
};

// What a supported tokenizer.json says. The supported kind is Gemma's: BPE over characters with
// byte fallback, where the normaliser turns spaces into U+2581 and nothing else splits the text.
struct TokenizerFile {
  std::vector<std::string> pieces;                          // By id; a hole is empty.
  std::vector<std::pair<std::string, std::string>> merges;  // Best rank first.
  std::vector<AddedToken> added_tokens;
  bool adds_bos = false;  // The post-processor puts <bos> in front.
};

// InvalidArgument names the field at fault.
StatusOr<TokenizerFile> ParseTokenizerFile(std::string_view json);

}  // namespace facet
