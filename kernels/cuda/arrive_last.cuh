// Blocks that share a sum: the last one to arrive finishes it.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace facet::kernels {

// Whether this block is the last of num_blocks; what the others wrote before is there then. All
// threads of the block call it. The counter is zero between launches.
FACET_DEVICE bool ArriveLast(uint32_t* counter, int num_blocks) {
  FACET_SHARED(is_last, bool);
  ptx::ThreadFence();
  ptx::SyncThreads();
  if (threadIdx.x == 0) {
    is_last = ptx::AtomicAdd(counter, 1U) + 1 == static_cast<uint32_t>(num_blocks);
    if (is_last) *counter = 0;
  }
  ptx::SyncThreads();
  ptx::ThreadFence();
  return is_last;
}

}  // namespace facet::kernels
