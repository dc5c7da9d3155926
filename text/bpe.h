// Byte-pair encoding of one text without added tokens: characters become ids, and neighbours that
// have a merge are joined, best rank first and leftmost among equals, until none is left.
//
// Immutable once built; any number of threads may encode.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "text/vocabulary.h"

namespace facet {

class Bpe {
 public:
  // merges are pairs of pieces, best rank first; both sides and their concatenation must be in the
  // vocabulary, and so must <0x00> to <0xFF>, which stand for characters that are no piece.
  static StatusOr<Bpe> Build(const Vocabulary& vocabulary,
                             const std::vector<std::pair<std::string, std::string>>& merges);

  // Appends the ids of text, in which a space counts as U+2581. InvalidArgument if text is not
  // UTF-8; the message counts bytes from text_offset. O(n log n).
  Status Encode(std::string_view text, size_t text_offset, std::vector<int32_t>& ids) const;

  // The id of the piece <0xNN>.
  int32_t byte_id(uint8_t byte) const { return byte_ids_[byte]; }

 private:
  struct Merge {
    uint64_t pair = 0;  // left id << 32 | right id
    uint32_t rank = 0;
    int32_t merged_id = -1;  // -1: a free slot.
  };

  // The ids at the ends of a piece once it is taken apart into single characters.
  struct Ends {
    int32_t first_id = -1;
    int32_t last_id = -1;
  };

  Status BuildSymbols(const Vocabulary& vocabulary);
  Status AddMerge(const Vocabulary& vocabulary,
                  const std::pair<std::string, std::string>& parts,
                  uint32_t rank);
  Ends EndsOf(std::string_view piece) const;
  const Merge& FindMerge(int32_t left, int32_t right) const;
  bool CanJoin(int32_t left, int32_t right) const;
  void AllowJoin(int32_t left, int32_t right);
  void MergeWord(std::vector<int32_t>& word, std::vector<int32_t>& ids) const;
  void MergeShortWord(std::vector<int32_t>& word, std::vector<int32_t>& ids) const;
  void MergeLongWord(const std::vector<int32_t>& word, std::vector<int32_t>& ids) const;

  std::vector<int32_t> char_ids_;  // By code point; -1 where no piece is that character.
  std::vector<int32_t> byte_ids_;  // By byte.
  std::vector<Merge> merges_;      // Open addressing, a power of two, at most half full.
  int merges_shift_ = 64;

  // Pairs of single-character ids that some merge joins: its left side ends with the one and its
  // right side begins with the other. Between any other two characters no merge can ever reach, so
  // the text may be cut there and the parts encoded apart with exactly the same result.
  std::vector<uint64_t> joins_;  // Open addressing as above; kNoPair is free.
  int joins_shift_ = 64;
};

}  // namespace facet
