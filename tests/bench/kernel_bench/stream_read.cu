#include "kernels/cuda/ptx.cuh"
#include "tests/bench/kernel_bench/stream_read.h"

namespace facet::bench {
namespace {

namespace ptx = kernels::ptx;

constexpr int kThreads = 512;
constexpr int kBlocksPerSm = 4;
constexpr int kLoads = 8;  // Under way in each thread: 64 KB times four for an SM.

__global__ void __launch_bounds__(kThreads)
    StreamReadKernel(const uint4* memory, int64_t num_vectors, uint32_t* sink) {
  ptx::GridDependencyWait();
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  uint32_t mix = 0;
  int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; at + (kLoads - 1) * stride < num_vectors; at += kLoads * stride) {
    uint4 v[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) v[i] = ptx::LoadStreaming16(memory + at + i * stride);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) mix += v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  for (; at < num_vectors; at += stride) {
    const uint4 v = ptx::LoadStreaming16(memory + at);
    mix += v.x ^ v.y ^ v.z ^ v.w;
  }
  if (mix == 1) *sink = mix;
}

}  // namespace

cudaError_t EnqueueStreamRead(
    const void* memory, int64_t bytes, uint32_t* sink, int num_sms, cudaStream_t stream) {
  return ptx::Launch({.grid = dim3(static_cast<unsigned>(num_sms * kBlocksPerSm)),
                      .block = dim3(kThreads),
                      .stream = stream},
                     StreamReadKernel, static_cast<const uint4*>(memory), bytes / 16, sink);
}

}  // namespace facet::bench
