// Products of one thread's warpgroup that are under way, in commit groups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/support/cuda_emulator/scheduler.h"

namespace facet::cuda_emulator {

inline constexpr int kWarpgroupThreads = 128;

struct WarpgroupProducts {
  // m64nNk16; this thread's part of its operands.
  struct Product {
    float* d;
    int columns;
    const uint32_t* a;  // Four registers, or null: matrix_a.
    uint64_t matrix_a;
    uint64_t b;
    bool b_is_mn_major;
    bool add;
    std::vector<float> before;  // d, if no product before this one is still to write it.
    Place place;
  };

  std::vector<Product> products;
  std::vector<size_t> group_ends;  // Index into products after each committed group.
  bool proxy_fenced = false;       // FenceProxyAsync after the last wait for other threads.
  bool fenced = false;             // WgmmaFence after the last WgmmaWait.

  bool IsWriting(const float* d) const {
    for (const Product& product : products) {
      if (product.d == d) return true;
    }
    return false;
  }
};

// What the running thread has under way.
WarpgroupProducts& CurrentProducts();

// The 128 threads of a warpgroup meet; compute runs once, on the operands of all.
void WarpgroupCollective(const char* op,
                         void* operands,
                         void (*compute)(void** threads),
                         Place place);

}  // namespace facet::cuda_emulator
