// The machine's ceilings, measured with the backend's own threads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace facet::kernels {
namespace {

class Stopwatch {
 public:
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

double CpuBackend::ProbeMemory() {
  constexpr int64_t kBytes = int64_t{1} << 30;
  constexpr int64_t kPiece = int64_t{4} << 20;
  if (probe_memory_.bytes() == 0) probe_memory_ = Allocate(kBytes);
  std::atomic<uint64_t> sink{0};
  double best = 0;
  for (int pass = 0; pass < 3; ++pass) {
    const Stopwatch stopwatch;
    pool_.For(kBytes / kPiece, [&](int64_t item, int) {
      const auto* words = reinterpret_cast<const uint64_t*>(
          static_cast<const std::byte*>(probe_memory_.data()) + item * kPiece);
      uint64_t sums[16] = {};
      for (int64_t i = 0; i < kPiece / 8; i += 16) {
        for (int64_t j = 0; j < 16; ++j) sums[j] += words[i + j];
      }
      uint64_t sum = 0;
      for (const uint64_t part : sums) sum += part;
      sink.fetch_add(sum, std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(kBytes) / 1e9 / stopwatch.Seconds());
  }
  return best;
}

double CpuBackend::ProbeProducts(DType dtype) {
  constexpr int64_t kRows = 192;
  constexpr int64_t kDepth = 1024;
  constexpr int64_t kOutputs = 512;
  const std::vector<float> values(static_cast<size_t>(kOutputs * kDepth), 0.01F);
  const PackedWeight weight =
      Pack(ConstTensorView(values.data(), DType::kF32, {kOutputs, kDepth}), FormatOf(dtype));
  const Buffer x = Allocate(kRows * kDepth * SizeOf(dtype));
  const Buffer y = Allocate(kRows * kOutputs * SizeOf(dtype));
  double best = 0;
  for (int i = 0; i < 20; ++i) {
    const Stopwatch stopwatch;
    OutputProj({.attention = ConstTensorView(x.data(), dtype, {kRows, kDepth}),
                .weight = weight,
                .out = TensorView(y.data(), dtype, {kRows, kOutputs})});
    best = std::max(best, 2.0 * kRows * kDepth * kOutputs / 1e9 / stopwatch.Seconds());
  }
  return best;
}

}  // namespace facet::kernels
