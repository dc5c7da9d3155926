// Which KV blocks are free: integers only, no memory.
//
// Blocks of both geometries come from the same slabs (kv_layout.h). A slab belongs to nobody, or to
// one geometry while any of its blocks is in use. New blocks come from the fullest slab of their
// geometry that has one, so that slabs empty out and can change sides.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "worker/kv/kv_layout.h"

namespace facet::worker {

class BlockPool {
 public:
  explicit BlockPool(const KvLayout& layout);

  // A block of this geometry, or nothing if no slab has one.
  std::optional<int32_t> TryAllocate(KvGeometry geometry);

  void Free(KvGeometry geometry, int32_t block);

  // Whether so many blocks of each geometry could be allocated now.
  bool CanAllocate(int32_t sliding, int32_t full) const;

  int32_t num_used(KvGeometry geometry) const { return num_used_[static_cast<int>(geometry)]; }

  // Bytes of the blocks in use.
  int64_t used_bytes() const;

  int64_t total_bytes() const { return layout_.arena_bytes(); }

  const KvLayout& layout() const { return layout_; }

 private:
  struct Slab {
    int geometry = -1;
    std::vector<int32_t> free;  // Places within the slab, lowest last.
  };

  const KvLayout layout_;
  std::vector<Slab> slabs_;
  std::set<int32_t> empty_slabs_;
  // For each geometry, its slabs that have both used and free blocks: (number free, slab).
  std::array<std::set<std::pair<int32_t, int32_t>>, 2> partial_;
  std::array<int32_t, 2> free_in_partial_{};
  std::array<int32_t, 2> num_used_{};
};

}  // namespace facet::worker
