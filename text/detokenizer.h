// Token ids of one generation to text, as they come: only whole UTF-8 characters leave, and all
// that leave together are what Tokenizer::Decode gives for all ids at once.
//
// One object per stream, one thread at a time; the tokenizer must outlive it.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace facet {

class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer,
                       SpecialTokens special_tokens = SpecialTokens::kSkip)
      : tokenizer_(&tokenizer), special_tokens_(special_tokens) {}

  // The characters that id completes; empty while it is in the middle of one, and for an id that
  // stands for nothing. A byte that cannot be part of a character becomes U+FFFD.
  std::string Append(int32_t id);

  // What is left of an unfinished character, each byte as U+FFFD; ready for another text after.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  SpecialTokens special_tokens_;
  std::string pending_;  // The beginning of one character, at most three bytes between calls.
};

}  // namespace facet
