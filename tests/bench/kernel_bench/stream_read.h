// Reads memory and does nothing else: the ceiling of a kernel that only reads.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace facet::bench {

// Enqueues one pass over bytes (a multiple of 16) of memory. What it finds decides whether sink,
// one word, is written, so that no load can be left out.
cudaError_t EnqueueStreamRead(
    const void* memory, int64_t bytes, uint32_t* sink, int num_sms, cudaStream_t stream);

}  // namespace facet::bench
