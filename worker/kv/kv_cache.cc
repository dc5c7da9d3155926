#include "worker/kv/kv_cache.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/math.h"

namespace facet::worker {
namespace {

constexpr int64_t kBlockTokens = kernels::kBlockTokens;

std::array<int64_t, 2> BlockBytes(const std::vector<KvLayerShape>& layers) {
  std::array<int64_t, 2> bytes{};
  for (const KvLayerShape& layer : layers) {
    if (layer.owns) bytes[static_cast<int>(layer.geometry)] += layer.bytes_per_token * kBlockTokens;
  }
  return bytes;
}

// The slab that wastes least: 1 to 16 of the larger block, filled up with the smaller.
int64_t SlabBytes(const std::array<int64_t, 2>& block_bytes) {
  const int64_t larger = std::max(block_bytes[0], block_bytes[1]);
  const int64_t smaller = std::min(block_bytes[0], block_bytes[1]);
  if (smaller == 0) return larger;
  int64_t best = larger;
  for (int64_t n = 1; n <= 16; ++n) {
    const int64_t slab = n * larger;
    // Waste as a share: (slab % smaller) / slab, compared without division.
    if ((slab % smaller) * best < (best % smaller) * slab) best = slab;
  }
  return best;
}

}  // namespace

StatusOr<KvLayout> PlanKvLayout(const std::vector<KvLayerShape>& layers,
                                int64_t window,
                                int64_t arena_bytes) {
  const std::array<int64_t, 2> block_bytes = BlockBytes(layers);
  KvLayout layout;
  layout.slab_bytes = SlabBytes(block_bytes);
  layout.num_slabs = static_cast<int32_t>(std::min<int64_t>(
      arena_bytes / layout.slab_bytes, INT32_MAX / 2 * KvCache::kOffsetUnit / layout.slab_bytes));
  const int32_t least = (block_bytes[0] > 0 ? 1 : 0) + (block_bytes[1] > 0 ? 1 : 0);
  if (layout.num_slabs < least) {
    return InvalidArgument("kv_bytes is ", arena_bytes, "; at least ", least * layout.slab_bytes,
                           " are needed for one block of each kind");
  }
  for (const KvGeometry geometry : kKvGeometries) {
    const int64_t bytes = block_bytes[static_cast<int>(geometry)];
    if (bytes == 0) continue;
    KvLayout::Geometry& g = layout.geometries[static_cast<int>(geometry)];
    g.block_bytes = bytes;
    g.blocks_per_slab = static_cast<int32_t>(layout.slab_bytes / bytes);
    g.window = geometry == KvGeometry::kSliding ? window : 0;
  }
  return layout;
}

int64_t KvBytesOf(const std::vector<KvLayerShape>& layers, int64_t window, int64_t num_tokens) {
  const std::array<int64_t, 2> block_bytes = BlockBytes(layers);
  const int64_t all = CeilDiv(num_tokens, kBlockTokens);
  // Blocks that a window of W tokens can touch, wherever it begins.
  const int64_t sliding = std::min(all, CeilDiv(window - 1, kBlockTokens) + 1);
  return sliding * block_bytes[0] + all * block_bytes[1];
}

KvCache::KvCache(kernels::Backend& backend,
                 const KvLayout& layout,
                 const std::vector<KvLayerShape>& layers)
    : layout_(layout),
      layers_(layers),
      layer_offsets_(layers.size()),
      arena_(backend.Allocate(layout.arena_bytes())) {
  std::array<int64_t, 2> next{};
  for (size_t i = 0; i < layers_.size(); ++i) {
    const KvLayerShape& layer = layers_[i];
    if (!layer.owns) {
      layer_offsets_[i] = layer_offsets_[layer.owner];
      continue;
    }
    int64_t& offset = next[static_cast<int>(layer.geometry)];
    layer_offsets_[i] = offset;
    offset += layer.bytes_per_token * kBlockTokens;
  }
  for (const KvGeometry geometry : kKvGeometries) {
    FACET_CHECK_EQ(layout_.of(geometry).block_bytes % kOffsetUnit, 0);
  }
}

kernels::KvLayerView KvCache::View(int32_t layer) const {
  return {.base = static_cast<std::byte*>(arena_.data()) + layer_offsets_[layer],
          .block_stride = kOffsetUnit};
}

}  // namespace facet::worker
