// The KV arena in device memory, and where each layer's keys and values lie in it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/backend.h"
#include "worker/kv/kv_layout.h"

namespace facet::worker {

// What one layer needs of a block, and whose part of the block it reads.
struct KvLayerShape {
  KvGeometry geometry = KvGeometry::kFull;
  bool owns = true;
  int32_t owner = 0;  // Index of the layer whose keys and values it reads; itself if it owns.
  int64_t bytes_per_token = 0;
};

// Cuts arena_bytes into slabs for these layers. INVALID_ARGUMENT if not even one block of each
// geometry fits.
StatusOr<KvLayout> PlanKvLayout(const std::vector<KvLayerShape>& layers,
                                int64_t window,
                                int64_t arena_bytes);

// Exact bytes of KV that num_tokens of one sequence hold once the window has moved on.
int64_t KvBytesOf(const std::vector<KvLayerShape>& layers, int64_t window, int64_t num_tokens);

class KvCache {
 public:
  // Offsets in block tables are given to kernels in units of this many bytes.
  static constexpr int64_t kOffsetUnit = 64;

  KvCache(kernels::Backend& backend,
          const KvLayout& layout,
          const std::vector<KvLayerShape>& layers);

  const KvLayout& layout() const { return layout_; }

  KvGeometry GeometryOf(int32_t layer) const { return layers_[layer].geometry; }

  // The part of every block that the layer reads; block_stride is kOffsetUnit.
  kernels::KvLayerView View(int32_t layer) const;

  // A block id as the offset that kernels take.
  int32_t OffsetOf(KvGeometry geometry, int32_t block) const {
    return static_cast<int32_t>(layout_.OffsetOf(geometry, block) / kOffsetUnit);
  }

 private:
  const KvLayout layout_;
  const std::vector<KvLayerShape> layers_;
  std::vector<int64_t> layer_offsets_;  // Of each layer's part in a block.
  kernels::Buffer arena_;
};

}  // namespace facet::worker
