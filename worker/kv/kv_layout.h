// How the KV arena is cut: one arena, two geometries.
//
// A block holds 16 tokens of every cache-owning layer of one kind (sliding or full). The arena is a
// run of equal slabs; a slab belongs to one geometry while any of its blocks is in use, so that
// either kind of layer can take what the mix of requests needs. Block b of a geometry lies in slab
// b / blocks_per_slab, at (b % blocks_per_slab) * block_bytes.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/attention.h"

namespace facet::worker {

enum class KvGeometry { kSliding = 0, kFull = 1 };

inline constexpr std::array<KvGeometry, 2> kKvGeometries = {KvGeometry::kSliding,
                                                            KvGeometry::kFull};

struct KvLayout {
  struct Geometry {
    int64_t block_bytes = 0;  // 0: the model has no cache-owning layer of this kind.
    int32_t blocks_per_slab = 0;
    int64_t window = 0;  // Tokens a query sees, itself included; 0: all.
  };

  int64_t slab_bytes = 0;
  int32_t num_slabs = 0;
  std::array<Geometry, 2> geometries;

  const Geometry& of(KvGeometry geometry) const { return geometries[static_cast<int>(geometry)]; }

  int64_t arena_bytes() const { return slab_bytes * num_slabs; }

  int64_t OffsetOf(KvGeometry geometry, int32_t block) const {
    const Geometry& g = of(geometry);
    return block / g.blocks_per_slab * slab_bytes + block % g.blocks_per_slab * g.block_bytes;
  }

  int32_t num_blocks_max(KvGeometry geometry) const {
    return num_slabs * of(geometry).blocks_per_slab;
  }
};

}  // namespace facet::worker
