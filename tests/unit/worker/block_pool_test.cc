#include "worker/kv/block_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace facet::worker {
namespace {

// Slabs of 100 bytes: 2 sliding blocks of 50, or 5 full blocks of 20.
KvLayout SmallLayout(int32_t num_slabs) {
  return {.slab_bytes = 100,
          .num_slabs = num_slabs,
          .geometries = {KvLayout::Geometry{.block_bytes = 50, .blocks_per_slab = 2, .window = 32},
                         KvLayout::Geometry{.block_bytes = 20, .blocks_per_slab = 5}}};
}

TEST(BlockPoolTest, ASlabChangesSidesOnlyWhenItIsEmpty) {
  BlockPool pool(SmallLayout(1));
  const std::optional<int32_t> sliding = pool.TryAllocate(KvGeometry::kSliding);
  ASSERT_TRUE(sliding.has_value());
  EXPECT_FALSE(pool.TryAllocate(KvGeometry::kFull).has_value());
  pool.Free(KvGeometry::kSliding, *sliding);
  EXPECT_TRUE(pool.TryAllocate(KvGeometry::kFull).has_value());
  EXPECT_EQ(pool.used_bytes(), 20);
}

TEST(BlockPoolTest, AgreesWithASimpleModelUnderRandomOperations) {
  const KvLayout layout = SmallLayout(7);
  for (uint32_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    BlockPool pool(layout);
    std::set<std::pair<int, int32_t>> used;
    for (int i = 0; i < 500; ++i) {
      const auto geometry = static_cast<KvGeometry>(random() % 2);
      if (random() % 5 < 3) {
        const bool possible =
            geometry == KvGeometry::kSliding ? pool.CanAllocate(1, 0) : pool.CanAllocate(0, 1);
        const std::optional<int32_t> block = pool.TryAllocate(geometry);
        ASSERT_EQ(block.has_value(), possible);
        if (block.has_value()) {
          ASSERT_TRUE(used.insert({static_cast<int>(geometry), *block}).second);
        }
      } else if (!used.empty()) {
        auto it = used.begin();
        std::advance(it, random() % used.size());
        pool.Free(static_cast<KvGeometry>(it->first), it->second);
        used.erase(it);
      }
      // No two blocks in use share a byte.
      std::set<int64_t> bytes;
      int64_t total = 0;
      for (const auto& [g, block] : used) {
        const auto kind = static_cast<KvGeometry>(g);
        const int64_t offset = layout.OffsetOf(kind, block);
        const int64_t size = layout.of(kind).block_bytes;
        for (int64_t byte = offset; byte < offset + size; byte += 10) bytes.insert(byte);
        total += size;
      }
      ASSERT_EQ(static_cast<int64_t>(bytes.size()) * 10, total);
      ASSERT_EQ(pool.used_bytes(), total);
    }
  }
}

TEST(BlockPoolTest, WhatCanBeAllocatedIs) {
  BlockPool pool(SmallLayout(3));
  EXPECT_TRUE(pool.CanAllocate(2, 10));
  EXPECT_FALSE(pool.CanAllocate(3, 10));
  EXPECT_FALSE(pool.CanAllocate(2, 11));
}

}  // namespace
}  // namespace facet::worker
