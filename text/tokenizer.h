// Text to token ids and back, exactly as Hugging Face's tokenizers do it with the tokenizer.json of
// Gemma 4. Immutable after Load: one object serves all threads.
//
// Added tokens (<|turn>, <|"|>, ...) are found first, leftmost and longest; what lies between them
// is encoded by Bpe. Nothing is added: a prompt's <bos> is part of the rendered text, and whoever
// encodes a bare text asks adds_bos().
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/bpe.h"
#include "text/tokenizer_file.h"
#include "text/vocabulary.h"

namespace facet {

struct EncodeOptions {
  // Off: "<|turn>" is seven ordinary characters, so a text can never forge a marker.
  bool parse_added_tokens = true;
};

// Whether tokens that the tokenizer marks special (<bos>, <|turn>, ...) appear in decoded text.
enum class SpecialTokens { kShow, kSkip };

class Tokenizer {
 public:
  // Reads tokenizer.json at path and, if there is one, the tokenizer_config.json beside it.
  // NotFound if the file cannot be read, InvalidArgument naming the field if it asks for what this
  // tokenizer does not do.
  static StatusOr<Tokenizer> Load(const std::string& path);

  // The same from memory; an empty config_json means there is none.
  static StatusOr<Tokenizer> Parse(std::string_view tokenizer_json,
                                   std::string_view config_json = {});

  // InvalidArgument with the byte's offset if text is not UTF-8.
  StatusOr<std::vector<int32_t>> Encode(std::string_view text, EncodeOptions options = {}) const;

  // Valid UTF-8: a byte that makes no character becomes U+FFFD. Ids that stand for nothing add
  // nothing. Equal to what a Detokenizer gives piece by piece.
  std::string Decode(std::span<const int32_t> ids,
                     SpecialTokens special_tokens = SpecialTokens::kShow) const;

  // One more than the largest id.
  int32_t vocab_size() const { return vocabulary_.size(); }

  // The piece as the vocabulary writes it ("▁the", "<0x0A>"); empty for an id that is none.
  std::string_view Piece(int32_t id) const {
    return Contains(id) ? vocabulary_.Piece(id) : std::string_view();
  }

  // The bytes the id adds to a text (" the", "\n"): not always whole characters.
  std::string_view Bytes(int32_t id) const;

  std::optional<int32_t> IdOf(std::string_view piece) const { return vocabulary_.Find(piece); }

  // Marked special: left out of decoded text with SpecialTokens::kSkip.
  bool IsSpecial(int32_t id) const { return Contains(id) && (kinds_[id] & kSpecial) != 0; }

  // Matched whole before merging: every marker of the chat format is.
  bool IsAdded(int32_t id) const { return Contains(id) && (kinds_[id] & kAdded) != 0; }

  // Whether the model's own files want <bos> in front of an encoded text that does not have it.
  bool adds_bos() const { return adds_bos_; }

  std::optional<int32_t> bos_id() const { return IdOf("<bos>"); }

 private:
  enum Kind : uint8_t { kAdded = 1, kSpecial = 2 };

  // A trie over the bytes of added tokens; node 0 is the root.
  struct TrieNode {
    std::vector<std::pair<char, int32_t>> children;
    int32_t token_id = -1;
  };

  struct Match {
    int32_t token_id = -1;
    size_t length = 0;
  };

  Tokenizer(Vocabulary vocabulary, Bpe bpe)
      : vocabulary_(std::move(vocabulary)), bpe_(std::move(bpe)) {}

  bool Contains(int32_t id) const { return id >= 0 && id < vocabulary_.size(); }

  void BuildBytes();
  void AddToTrie(const AddedToken& token);
  static Match LongestMatch(const std::vector<TrieNode>& trie, std::string_view text);
  Status EncodeNormalized(std::string_view text,
                          size_t text_offset,
                          std::vector<int32_t>& ids) const;

  Vocabulary vocabulary_;
  Bpe bpe_;
  std::vector<uint8_t> kinds_;                // By id, bits of Kind.
  std::string bytes_;                         // What each id adds to a text, one after the other.
  std::vector<uint32_t> bytes_at_;            // vocab_size() + 1 offsets into bytes_.
  std::vector<TrieNode> raw_trie_{1};         // Added tokens matched in the text as it is,
  std::vector<TrieNode> normalized_trie_{1};  // and those matched with spaces as U+2581.
  bool adds_bos_ = false;
};

}  // namespace facet
