#include "text/detokenizer.h"

#include "text/utf8.h"

namespace facet {

std::string Detokenizer::Append(int32_t id) {
  if (special_tokens_ == SpecialTokens::kSkip && tokenizer_->IsSpecial(id)) return "";
  pending_ += tokenizer_->Bytes(id);
  std::string whole;
  size_t at = 0;
  while (at < pending_.size()) {
    const Utf8Step step = NextUtf8(std::string_view(pending_).substr(at));
    if (step.kind == Utf8Step::Kind::kIncomplete) break;
    if (step.kind == Utf8Step::Kind::kInvalid) {
      whole += kReplacementCharacter;
      at += 1;
    } else {
      whole.append(pending_, at, step.length);
      at += step.length;
    }
  }
  pending_.erase(0, at);
  return whole;
}

std::string Detokenizer::Finish() {
  std::string rest;
  for (size_t i = 0; i < pending_.size(); ++i) rest += kReplacementCharacter;
  pending_.clear();
  return rest;
}

}  // namespace facet
