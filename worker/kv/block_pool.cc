#include "worker/kv/block_pool.h"

#include "base/check.h"
#include "base/math.h"

namespace facet::worker {

BlockPool::BlockPool(const KvLayout& layout) : layout_(layout), slabs_(layout.num_slabs) {
  for (int32_t slab = 0; slab < layout.num_slabs; ++slab) empty_slabs_.insert(slab);
}

std::optional<int32_t> BlockPool::TryAllocate(KvGeometry geometry) {
  const int g = static_cast<int>(geometry);
  const int32_t per_slab = layout_.of(geometry).blocks_per_slab;
  if (per_slab == 0) return std::nullopt;
  int32_t index = -1;
  if (!partial_[g].empty()) {
    index = partial_[g].begin()->second;
    partial_[g].erase(partial_[g].begin());
    free_in_partial_[g] -= static_cast<int32_t>(slabs_[index].free.size());
  } else {
    if (empty_slabs_.empty()) return std::nullopt;
    index = *empty_slabs_.begin();
    empty_slabs_.erase(empty_slabs_.begin());
    slabs_[index].geometry = g;
    for (int32_t place = per_slab - 1; place >= 0; --place) slabs_[index].free.push_back(place);
  }
  Slab& slab = slabs_[index];
  const int32_t place = slab.free.back();
  slab.free.pop_back();
  if (!slab.free.empty()) {
    partial_[g].insert({static_cast<int32_t>(slab.free.size()), index});
    free_in_partial_[g] += static_cast<int32_t>(slab.free.size());
  }
  ++num_used_[g];
  return index * per_slab + place;
}

void BlockPool::Free(KvGeometry geometry, int32_t block) {
  const int g = static_cast<int>(geometry);
  const int32_t per_slab = layout_.of(geometry).blocks_per_slab;
  FACET_CHECK(block >= 0 && block < layout_.num_blocks_max(geometry)) << block;
  const int32_t index = block / per_slab;
  Slab& slab = slabs_[index];
  FACET_CHECK_EQ(slab.geometry, g);
  const auto num_free = static_cast<int32_t>(slab.free.size());
  if (num_free > 0) {
    partial_[g].erase({num_free, index});
    free_in_partial_[g] -= num_free;
  }
  slab.free.push_back(block % per_slab);
  FACET_CHECK_LE(num_free + 1, per_slab) << "freed twice: block" << block;
  if (num_free + 1 == per_slab) {
    slab = Slab{};
    empty_slabs_.insert(index);
  } else {
    partial_[g].insert({num_free + 1, index});
    free_in_partial_[g] += num_free + 1;
  }
  --num_used_[g];
}

bool BlockPool::CanAllocate(int32_t sliding, int32_t full) const {
  int32_t slabs_needed = 0;
  const std::array<int32_t, 2> wanted = {sliding, full};
  for (const KvGeometry geometry : kKvGeometries) {
    const int g = static_cast<int>(geometry);
    const int32_t missing = wanted[g] - free_in_partial_[g];
    if (missing <= 0) continue;
    if (layout_.of(geometry).blocks_per_slab == 0) return false;
    slabs_needed += CeilDiv(missing, layout_.of(geometry).blocks_per_slab);
  }
  return slabs_needed <= static_cast<int32_t>(empty_slabs_.size());
}

int64_t BlockPool::used_bytes() const {
  int64_t bytes = 0;
  for (const KvGeometry geometry : kKvGeometries) {
    bytes += num_used(geometry) * layout_.of(geometry).block_bytes;
  }
  return bytes;
}

}  // namespace facet::worker
