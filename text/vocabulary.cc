#include "text/vocabulary.h"

#include <bit>
#include <functional>

namespace facet {

StatusOr<Vocabulary> Vocabulary::Build(const std::vector<std::string>& pieces) {
  Vocabulary vocabulary;
  size_t num_bytes = 0;
  for (const std::string& piece : pieces) num_bytes += piece.size();
  vocabulary.arena_.reserve(num_bytes);
  vocabulary.starts_.reserve(pieces.size() + 1);
  for (const std::string& piece : pieces) {
    vocabulary.arena_ += piece;
    vocabulary.starts_.push_back(static_cast<uint32_t>(vocabulary.arena_.size()));
  }
  vocabulary.slots_.assign(std::bit_ceil(2 * pieces.size() + 2), -1);
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.Piece(id).empty()) continue;
    int32_t& slot = vocabulary.slots_[vocabulary.Slot(vocabulary.Piece(id))];
    if (slot >= 0) {
      return InvalidArgument("piece ", vocabulary.Piece(id), " has the ids ", slot, " and ", id);
    }
    slot = id;
  }
  return vocabulary;
}

std::optional<int32_t> Vocabulary::Find(std::string_view piece) const {
  if (piece.empty() || slots_.empty()) return std::nullopt;
  const int32_t id = slots_[Slot(piece)];
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

// Where piece is, or the free place where it belongs.
size_t Vocabulary::Slot(std::string_view piece) const {
  const size_t mask = slots_.size() - 1;
  size_t i = std::hash<std::string_view>()(piece) & mask;
  while (slots_[i] >= 0 && Piece(slots_[i]) != piece) i = (i + 1) & mask;
  return i;
}

}  // namespace facet
