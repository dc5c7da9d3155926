#include "text/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <functional>
#include <queue>

#include "text/utf8.h"

namespace facet {
namespace {

constexpr uint64_t kNoPair = UINT64_MAX;
constexpr char32_t kSpaceMark = 0x2581;  // Stands for a space inside pieces.

// Words up to here are merged by scanning all pairs for the best: fewer steps than a heap takes.
constexpr size_t kShortWordMax = 24;

uint64_t PairOf(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Fibonacci hashing: the top bits of the product.
size_t HashPair(uint64_t pair, int shift) { return (pair * 0x9E3779B97F4A7C15u) >> shift; }

// Slots for n entries in a table that stays at most half full.
size_t SlotsFor(size_t n) { return std::bit_ceil(2 * n + 2); }

int ShiftFor(size_t slots) { return 64 - std::countr_zero(slots); }

bool IsBytePiece(std::string_view piece) {
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return piece.size() == 6 && piece.starts_with("<0x") && is_hex(piece[3]) && is_hex(piece[4]) &&
         piece[5] == '>';
}

}  // namespace

StatusOr<Bpe> Bpe::Build(const Vocabulary& vocabulary,
                         const std::vector<std::pair<std::string, std::string>>& merges) {
  Bpe bpe;
  FACET_RETURN_IF_ERROR(bpe.BuildSymbols(vocabulary));
  bpe.merges_.resize(SlotsFor(merges.size()));
  bpe.merges_shift_ = ShiftFor(bpe.merges_.size());
  bpe.joins_.assign(SlotsFor(merges.size()), kNoPair);
  bpe.joins_shift_ = ShiftFor(bpe.joins_.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Status added = bpe.AddMerge(vocabulary, merges[rank], static_cast<uint32_t>(rank));
    if (!added.ok()) return Annotate(added, StrCat("model.merges[", rank, "]"));
  }
  return bpe;
}

Status Bpe::BuildSymbols(const Vocabulary& vocabulary) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view piece = vocabulary.Piece(id);
    const Utf8Step step = NextUtf8(piece);
    if (step.kind != Utf8Step::Kind::kCharacter || step.length != piece.size()) continue;
    if (step.code >= char_ids_.size()) char_ids_.resize(step.code + 1, -1);
    char_ids_[step.code] = id;
  }
  // A space is encoded as its mark; a piece that is a space itself can never match.
  if (char_ids_.size() <= ' ') char_ids_.resize(' ' + 1, -1);
  char_ids_[' '] = kSpaceMark < char_ids_.size() ? char_ids_[kSpaceMark] : -1;
  for (int byte = 0; byte < 256; ++byte) {
    std::array<char, 8> piece{};
    std::snprintf(piece.data(), piece.size(), "<0x%02X>", static_cast<unsigned>(byte));
    const std::optional<int32_t> id = vocabulary.Find(piece.data());
    if (!id)
      return InvalidArgument("model.vocab lacks ", piece.data(), ", which byte_fallback needs");
    byte_ids_.push_back(*id);
  }
  return absl::OkStatus();
}

Status Bpe::AddMerge(const Vocabulary& vocabulary,
                     const std::pair<std::string, std::string>& parts,
                     uint32_t rank) {
  const auto& [left, right] = parts;
  const std::optional<int32_t> left_id = vocabulary.Find(left);
  const std::optional<int32_t> right_id = vocabulary.Find(right);
  const std::optional<int32_t> merged_id = vocabulary.Find(left + right);
  if (!left_id || !right_id || !merged_id) {
    return InvalidArgument("joins ", left, " and ", right, ", which are not all in model.vocab");
  }
  if (IsBytePiece(left) || IsBytePiece(right)) {
    return InvalidArgument("joins a byte piece; not supported");
  }
  const Ends left_ends = EndsOf(left);
  const Ends right_ends = EndsOf(right);
  AllowJoin(left_ends.last_id, right_ends.first_id);

  // The last of two merges of the same pair counts, as in Hugging Face's map.
  const uint64_t pair = PairOf(*left_id, *right_id);
  const size_t mask = merges_.size() - 1;
  size_t i = HashPair(pair, merges_shift_);
  while (merges_[i].merged_id >= 0 && merges_[i].pair != pair) i = (i + 1) & mask;
  merges_[i] = {.pair = pair, .rank = rank, .merged_id = *merged_id};
  return absl::OkStatus();
}

// -1 for a character that is no piece: nothing can be merged up to a piece that begins or ends so.
Bpe::Ends Bpe::EndsOf(std::string_view piece) const {
  size_t last = piece.size() - 1;
  while (last > 0 && IsUtf8Continuation(piece[last])) --last;
  const auto id_at = [&](size_t i) {
    const char32_t code = NextUtf8(piece.substr(i)).code;
    return code < char_ids_.size() ? char_ids_[code] : -1;
  };
  return {.first_id = id_at(0), .last_id = id_at(last)};
}

const Bpe::Merge& Bpe::FindMerge(int32_t left, int32_t right) const {
  static constexpr Merge kNone = {.rank = kNoRank};
  const uint64_t pair = PairOf(left, right);
  const size_t mask = merges_.size() - 1;
  size_t i = HashPair(pair, merges_shift_);
  while (merges_[i].merged_id >= 0) {
    if (merges_[i].pair == pair) return merges_[i];
    i = (i + 1) & mask;
  }
  return kNone;
}

bool Bpe::CanJoin(int32_t left, int32_t right) const {
  const uint64_t pair = PairOf(left, right);
  const size_t mask = joins_.size() - 1;
  size_t i = HashPair(pair, joins_shift_);
  while (joins_[i] != kNoPair) {
    if (joins_[i] == pair) return true;
    i = (i + 1) & mask;
  }
  return false;
}

void Bpe::AllowJoin(int32_t left, int32_t right) {
  const uint64_t pair = PairOf(left, right);
  const size_t mask = joins_.size() - 1;
  size_t i = HashPair(pair, joins_shift_);
  while (joins_[i] != kNoPair && joins_[i] != pair) i = (i + 1) & mask;
  joins_[i] = pair;
}

Status Bpe::Encode(std::string_view text, size_t text_offset, std::vector<int32_t>& ids) const {
  std::vector<int32_t> word;  // Characters since the last cut.
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    if (step.kind != Utf8Step::Kind::kCharacter) {
      return InvalidArgument("text is not valid UTF-8 at byte ", text_offset + at);
    }
    const int32_t id = step.code < char_ids_.size() ? char_ids_[step.code] : -1;
    if (id < 0) {  // Bytes never merge.
      MergeWord(word, ids);
      for (size_t i = 0; i < step.length; ++i) {
        ids.push_back(byte_ids_[static_cast<uint8_t>(text[at + i])]);
      }
    } else {
      if (!word.empty() && !CanJoin(word.back(), id)) MergeWord(word, ids);
      word.push_back(id);
    }
    at += step.length;
  }
  MergeWord(word, ids);
  return absl::OkStatus();
}

// Appends the merged ids of word and leaves it empty.
void Bpe::MergeWord(std::vector<int32_t>& word, std::vector<int32_t>& ids) const {
  if (word.size() <= 1) {
    ids.insert(ids.end(), word.begin(), word.end());
  } else if (word.size() <= kShortWordMax) {
    MergeShortWord(word, ids);
  } else {
    MergeLongWord(word, ids);
  }
  word.clear();
}

void Bpe::MergeShortWord(std::vector<int32_t>& word, std::vector<int32_t>& ids) const {
  size_t size = word.size();
  std::array<Merge, kShortWordMax> merges;  // merges[i] joins word[i] and word[i + 1].
  for (size_t i = 0; i + 1 < size; ++i) merges[i] = FindMerge(word[i], word[i + 1]);
  while (size > 1) {
    const auto best =
        std::min_element(merges.begin(), merges.begin() + static_cast<ptrdiff_t>(size - 1),
                         [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (best->rank == kNoRank) break;
    const auto i = static_cast<size_t>(best - merges.begin());
    word[i] = best->merged_id;
    std::copy(word.begin() + static_cast<ptrdiff_t>(i) + 2,
              word.begin() + static_cast<ptrdiff_t>(size),
              word.begin() + static_cast<ptrdiff_t>(i) + 1);
    std::copy(best + 1, merges.begin() + static_cast<ptrdiff_t>(size - 1), best);
    --size;
    if (i > 0) merges[i - 1] = FindMerge(word[i - 1], word[i]);
    if (i + 1 < size) merges[i] = FindMerge(word[i], word[i + 1]);
  }
  ids.insert(ids.end(), word.begin(), word.begin() + static_cast<ptrdiff_t>(size));
}

// A linked list of symbols and a heap of candidate merges. A candidate is out of date, and skipped,
// once either of its two symbols has changed.
void Bpe::MergeLongWord(const std::vector<int32_t>& word, std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id;  // -1: merged into the symbol before it.
    int32_t previous;
    int32_t next;
  };

  struct Candidate {
    uint32_t rank;
    int32_t place;  // Index of the left symbol.
    int32_t left_id;
    int32_t right_id;
    int32_t merged_id;

    bool operator<(const Candidate& other) const {  // The heap's top is the largest.
      return rank != other.rank ? rank > other.rank : place > other.place;
    }
  };

  const auto size = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols(word.size());
  for (int32_t i = 0; i < size; ++i) symbols[i] = {word[i], i - 1, i + 1 < size ? i + 1 : -1};

  const auto candidate_at = [&](int32_t place) -> Candidate {
    const int32_t left_id = symbols[place].id;
    const int32_t right_id = symbols[symbols[place].next].id;
    const Merge& merge = FindMerge(left_id, right_id);
    return {merge.rank, place, left_id, right_id, merge.merged_id};
  };
  std::vector<Candidate> candidates;
  candidates.reserve(word.size());
  for (int32_t i = 0; i + 1 < size; ++i) {
    if (const Candidate c = candidate_at(i); c.rank != kNoRank) candidates.push_back(c);
  }
  std::priority_queue<Candidate> heap(std::less<Candidate>(), std::move(candidates));
  const auto consider = [&](int32_t place) {
    if (const Candidate c = candidate_at(place); c.rank != kNoRank) heap.push(c);
  };

  while (!heap.empty()) {
    const Candidate best = heap.top();
    heap.pop();
    Symbol& left = symbols[best.place];
    if (left.id != best.left_id || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    if (right.id != best.right_id) continue;
    left.id = best.merged_id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) {
      symbols[left.next].previous = best.place;
      consider(best.place);
    }
    if (left.previous >= 0) consider(left.previous);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace facet
