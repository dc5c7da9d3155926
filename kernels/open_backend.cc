#include "kernels/open_backend.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <thread>

#include "kernels/cpu/cpu_backend.h"

namespace facet::kernels {
namespace {

OpenedBackend OpenCpuBackend(const BackendChoice& choice) {
  if (choice.kernels == "fast") return {.error = "kernels is fast; the cpu has exact only"};
  if (choice.ple_on_host) return {.error = "ple_on_host is true; only CUDA has memory of its own"};
  CpuTier tier = BestCpuTier();
  if (!choice.cpu_tier.empty()) {
    const std::optional<CpuTier> wanted = ParseCpuTier(choice.cpu_tier);
    if (!wanted.has_value()) {
      return {.error = "cpu_tier is " + choice.cpu_tier + "; scalar, avx2 and avx512 exist"};
    }
    if (!Supports(*wanted)) {
      return {.error = "cpu_tier is " + choice.cpu_tier + "; this machine supports at most " +
                       NameOf(tier)};
    }
    tier = *wanted;
  }
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  const int threads = choice.threads > 0 ? choice.threads : std::max(1, cores);
  return {.backend = std::make_unique<CpuBackend>(tier, threads)};
}

}  // namespace

OpenedBackend OpenBackend(const BackendChoice& choice) {
  constexpr std::string_view kCuda = "cuda:";
  if (!choice.kernels.empty() && choice.kernels != "exact" && choice.kernels != "fast") {
    return {.error = "kernels is " + choice.kernels + "; exact and fast exist"};
  }
  const std::string_view device = choice.device;
  if (device.empty() || device == "cpu") return OpenCpuBackend(choice);
  int number = device == "cuda" ? 0 : -1;
  if (device.starts_with(kCuda)) {
    const char* end = device.data() + device.size();
    const auto parsed = std::from_chars(device.data() + kCuda.size(), end, number);
    if (parsed.ec != std::errc() || parsed.ptr != end) number = -1;
  }
  if (number < 0)
    return {.error = "device is " + choice.device + "; it must be cpu, cuda or cuda:N"};
  return OpenCudaBackend(choice, number);
}

}  // namespace facet::kernels
