#include "text/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <functional>
#include <numeric>
#include <optional>
#include <queue>

#include "text/utf8.h"

namespace facet {
namespace {

constexpr uint64_t kNoPair = UINT64_MAX;
constexpr uint32_t kNoRank = UINT32_MAX;
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

// The symbols of a long word, linked; arrays by place, which is the index of a symbol's first
// character.
struct SymbolList {
  explicit SymbolList(const std::vector<int32_t>& word)
      : id(word), previous(word.size()), next(word.size()), rank(word.size(), kNoRank) {
    std::iota(previous.begin(), previous.end(), -1);
    std::iota(next.begin(), next.end(), 1);
    next.back() = -1;
  }

  // The symbol at place takes the next one in.
  void Join(int32_t place, int32_t merged_id) {
    const int32_t taken = next[place];
    id[place] = merged_id;
    rank[place] = kNoRank;
    rank[taken] = kNoRank;
    next[place] = next[taken];
    if (next[place] >= 0) previous[next[place]] = place;
  }

  std::vector<int32_t> id;
  std::vector<int32_t> previous;  // -1: none.
  std::vector<int32_t> next;      // -1: none.
  std::vector<uint32_t> rank;     // Of the merge with the next symbol; kNoRank: none.
};

// Candidate merges, best rank first, then leftmost.
//
// In text that repeats itself, candidates of one rank come in ascending places, so they are kept as
// runs: ascending lists of places of one rank. The heap orders runs by their first place, and a run
// is taken to its end outside the heap unless a better one appears.
//
//   current: (rank 3, place 0, run 0)   runs: 0: 0 → 2 → 4 → 6
//   heap:    (rank 7, place 1, run 1)         1: 1 → 3 → 5
class CandidateRuns {
 public:
  struct Candidate {
    uint32_t rank = 0;
    int32_t place = 0;
    int32_t merged_id = 0;
  };

  explicit CandidateRuns(size_t word_size) {
    nodes_.reserve(2 * word_size);
    newest_runs_.fill(-1);
  }

  void Add(uint32_t rank, int32_t place, int32_t merged_id) {
    const auto node = static_cast<int32_t>(nodes_.size());
    nodes_.push_back({.place = place});
    // The newest run of this rank, if none of another rank has taken its slot since.
    int32_t& newest = newest_runs_[rank % newest_runs_.size()];
    if (newest >= 0) {
      Run& run = runs_[newest];
      if (run.rank == rank && run.head >= 0 && nodes_[run.tail].place <= place) {
        nodes_[run.tail].next = node;
        run.tail = node;
        return;
      }
    }
    if (newest < 0 || runs_[newest].head >= 0) {  // Else all of it is taken: it may be used again.
      newest = static_cast<int32_t>(runs_.size());
      runs_.emplace_back();
    }
    runs_[newest] = {.rank = rank, .merged_id = merged_id, .head = node, .tail = node};
    Entry entry = {KeyOf(rank, place), newest};
    if (entry.key < current_.key) std::swap(entry, current_);
    if (entry.run >= 0) heap_.push(entry);
  }

  // Nothing if all are taken.
  std::optional<Candidate> TakeBest() {
    if (!heap_.empty() && heap_.top().key < current_.key) {
      const Entry better = heap_.top();
      heap_.pop();
      if (current_.run >= 0) heap_.push(current_);
      current_ = better;
    }
    if (current_.run < 0) return std::nullopt;
    Run& run = runs_[current_.run];
    const Node node = nodes_[run.head];
    run.head = node.next;
    current_ =
        run.head < 0 ? Entry{} : Entry{KeyOf(run.rank, nodes_[run.head].place), current_.run};
    return Candidate{.rank = run.rank, .place = node.place, .merged_id = run.merged_id};
  }

  bool AllAreWorseThan(uint32_t rank, int32_t place) const {
    return KeyOf(rank, place) < current_.key &&
           (heap_.empty() || KeyOf(rank, place) < heap_.top().key);
  }

 private:
  struct Node {
    int32_t place = 0;
    int32_t next = -1;  // Node of the same run.
  };

  struct Run {
    uint32_t rank = 0;
    int32_t merged_id = 0;
    int32_t head = -1;  // Node; -1: all taken.
    int32_t tail = -1;
  };

  struct Entry {
    uint64_t key = UINT64_MAX;  // Of the run's head.
    int32_t run = -1;

    bool operator>(const Entry& other) const { return key > other.key; }
  };

  // Ordered as candidates are.
  static uint64_t KeyOf(uint32_t rank, int32_t place) {
    return static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(place);
  }

  std::vector<Node> nodes_;
  std::vector<Run> runs_;
  std::array<int32_t, 64> newest_runs_;  // By rank modulo the size; -1: none.
  Entry current_;                        // The run being taken; not in the heap.
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> heap_;
};

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

void Bpe::MergeLongWord(const std::vector<int32_t>& word, std::vector<int32_t>& ids) const {
  SymbolList symbols(word);
  CandidateRuns candidates(word.size());
  // What the pair that begins at place can become, if anything.
  const auto merge_at = [&](int32_t place) -> const Merge& {
    const Merge& merge = FindMerge(symbols.id[place], symbols.id[symbols.next[place]]);
    symbols.rank[place] = merge.rank;
    return merge;
  };
  const auto consider = [&](int32_t place) {
    const Merge& merge = merge_at(place);
    if (merge.rank != kNoRank) candidates.Add(merge.rank, place, merge.merged_id);
  };

  for (int32_t i = 0; symbols.next[i] >= 0; ++i) consider(i);
  while (const std::optional<CandidateRuns::Candidate> best = candidates.TakeBest()) {
    const int32_t place = best->place;
    if (symbols.rank[place] != best->rank) continue;  // Its pair has changed since.
    int32_t merged_id = best->merged_id;
    for (bool grows = true; grows;) {
      symbols.Join(place, merged_id);
      if (symbols.previous[place] >= 0) consider(symbols.previous[place]);
      if (symbols.next[place] < 0) break;
      const Merge& merge = merge_at(place);
      if (merge.rank == kNoRank) break;
      // A symbol whose next merge is again the best of all does not go through the queue.
      grows = candidates.AllAreWorseThan(merge.rank, place);
      merged_id = merge.merged_id;
      if (!grows) candidates.Add(merge.rank, place, merged_id);
    }
  }
  for (int32_t i = 0; i >= 0; i = symbols.next[i]) ids.push_back(symbols.id[i]);
}

}  // namespace facet
