// The device's ceilings as events time them: a copy of 1 GiB, and a product of our own tiled kernel
// that fills the device. cuBLASLt's product, where it is found, is the GPU benches' business.
#include <algorithm>
#include <random>
#include <vector>

#include "kernels/cuda/cuda_backend.h"

namespace facet::kernels {
namespace {

constexpr int kWarmUps = 3;
constexpr int kPasses = 10;

}  // namespace

template <typename Work>
double CudaBackend::BestSeconds(const Work& work) {
  cudaEvent_t start = nullptr;
  cudaEvent_t end = nullptr;
  Check(cudaEventCreateWithFlags(&start, cudaEventDefault), "event");
  Check(cudaEventCreateWithFlags(&end, cudaEventDefault), "event");
  float best_ms = 0;
  for (int pass = 0; pass < kWarmUps + kPasses; ++pass) {
    float ms = 0;
    Check(cudaEventRecord(start, stream_), "event");
    work();
    Check(cudaEventRecord(end, stream_), "event");
    Check(cudaEventSynchronize(end), "probe");
    Check(cudaEventElapsedTime(&ms, start, end), "event");
    if (pass >= kWarmUps) best_ms = best_ms == 0 ? ms : std::min(best_ms, ms);
  }
  Check(cudaEventDestroy(start), "event");
  Check(cudaEventDestroy(end), "event");
  return best_ms * 1e-3;
}

double CudaBackend::ProbeMemory() {
  constexpr int64_t kBytes = int64_t{1} << 30;
  if (probe_memory_[0].bytes() == 0) {
    for (Buffer& buffer : probe_memory_) buffer = Allocate(kBytes);
  }
  const double seconds = BestSeconds([&] {
    Check(cudaMemcpyAsync(probe_memory_[0].data(), probe_memory_[1].data(), kBytes,
                          cudaMemcpyDeviceToDevice, stream_),
          "copy");
  });
  return 2.0 * kBytes / 1e9 / seconds;
}

double CudaBackend::ProbeProducts(DType dtype) {
  if (!Supports(dtype)) return 0;
  constexpr int64_t kTokens = 8192;
  constexpr int64_t kSize = 4096;
  // Not zeros: a GPU multiplies those faster.
  std::vector<float> values(static_cast<size_t>(kSize * kSize));
  std::mt19937 random(1);
  for (float& value : values) value = static_cast<float>(random() % 255) / 128 - 1;
  const PackedWeight weight =
      Pack(ConstTensorView(values.data(), DType::kF32, {kSize, kSize}), WeightFormat::kBf16);
  const Buffer half = Upload(ConstTensorView(values.data(), DType::kF32, {kSize * kSize}), dtype);
  const Buffer x = Allocate(kTokens * kSize * SizeOf(dtype));
  const Buffer y = Allocate(kTokens * kSize * SizeOf(dtype));
  for (int64_t at = 0; at < x.bytes(); at += half.bytes()) {
    Check(cudaMemcpyAsync(static_cast<std::byte*>(x.data()) + at, half.data(),
                          static_cast<size_t>(half.bytes()), cudaMemcpyDeviceToDevice, stream_),
          "copy");
  }
  const double seconds = BestSeconds([&] {
    OutputProj({.attention = ConstTensorView(x.data(), dtype, {kTokens, kSize}),
                .weight = weight,
                .out = TensorView(y.data(), dtype, {kTokens, kSize})});
  });
  return 2.0 * kTokens * kSize * kSize / 1e9 / seconds;
}

}  // namespace facet::kernels
