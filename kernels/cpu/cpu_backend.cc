#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "base/math.h"
#include "kernels/cpu/rows.h"

namespace facet::kernels {
namespace {

constexpr int64_t kHugePage = 2 << 20;

const Primitives& PrimitivesOf(CpuTier tier) {
  FACET_CHECK(Supports(tier)) << NameOf(tier) << "is not supported by this machine";
  switch (tier) {
    case CpuTier::kAvx2:
      return Avx2Primitives();
    case CpuTier::kAvx512:
      return Avx512Primitives();
    case CpuTier::kScalar:
      break;
  }
  return ScalarPrimitives();
}

float ElementOf(const ConstTensorView& view, int64_t i) {
  return view.dtype() == DType::kBf16 ? ToFloat(view.as<Bf16>()[i]) : view.as<float>()[i];
}

}  // namespace

const char* NameOf(CpuTier tier) {
  switch (tier) {
    case CpuTier::kAvx2:
      return "avx2";
    case CpuTier::kAvx512:
      return "avx512";
    case CpuTier::kScalar:
      break;
  }
  return "scalar";
}

std::optional<CpuTier> ParseCpuTier(std::string_view name) {
  for (const CpuTier tier : {CpuTier::kScalar, CpuTier::kAvx2, CpuTier::kAvx512}) {
    if (name == NameOf(tier)) return tier;
  }
  return std::nullopt;
}

bool Supports(CpuTier tier) {
  switch (tier) {
    case CpuTier::kAvx2:
      return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    case CpuTier::kAvx512:
      return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
             __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512bf16") != 0;
    case CpuTier::kScalar:
      break;
  }
  return true;
}

CpuTier BestCpuTier() {
  if (Supports(CpuTier::kAvx512)) return CpuTier::kAvx512;
  return Supports(CpuTier::kAvx2) ? CpuTier::kAvx2 : CpuTier::kScalar;
}

CpuBackend::CpuBackend(CpuTier tier, int num_threads)
    : tier_(tier), primitives_(PrimitivesOf(tier)), pool_(num_threads), scratch_(num_threads) {}

std::string CpuBackend::name() const { return std::string("cpu/") + NameOf(tier_); }

Buffer CpuBackend::Allocate(int64_t bytes) {
  if (bytes >= kHugePage) {
    const int64_t rounded = RoundUp(bytes, kHugePage);
    void* data = std::aligned_alloc(kHugePage, rounded);
    FACET_CHECK(data != nullptr) << bytes << "bytes";
    madvise(data, rounded, MADV_HUGEPAGE);  // A wish: smaller pages work too.
    std::memset(data, 0, rounded);
    return Buffer(data, bytes, [](void* memory) { std::free(memory); });
  }
  const int64_t rounded = RoundUp<int64_t>(std::max<int64_t>(bytes, 1), 64);
  void* data = std::aligned_alloc(64, rounded);
  FACET_CHECK(data != nullptr) << bytes << "bytes";
  std::memset(data, 0, rounded);
  return Buffer(data, bytes, [](void* memory) { std::free(memory); });
}

Buffer CpuBackend::Upload(const ConstTensorView& host, DType dtype) {
  const int64_t size = host.num_elements();
  Buffer copy = Allocate(size * SizeOf(dtype));
  for (int64_t i = 0; i < size; ++i) {
    if (dtype == DType::kBf16) {
      static_cast<Bf16*>(copy.data())[i] = ToBf16(ElementOf(host, i));
    } else {
      static_cast<float*>(copy.data())[i] = ElementOf(host, i);
    }
  }
  return copy;
}

// Panels of sixteen outputs; within one, k (f32) or pairs of k (bf16) follow each other. The last
// panel is filled up with zeros.
PackedWeight CpuBackend::Pack(const ConstTensorView& weight, WeightFormat format) {
  const bool bf16 = format == WeightFormat::kBf16;
  const int64_t rows = weight.dim(0);
  const int64_t cols = weight.dim(1);
  FACET_CHECK(!bf16 || cols % 2 == 0) << "bf16 weights want an even number of columns, not" << cols;
  const int64_t num_panels = CeilDiv<int64_t>(rows, kPanelOutputs);
  PackedWeight packed{.rows = rows,
                      .cols = cols,
                      .format = format,
                      .data = Allocate(num_panels * kPanelOutputs * cols * (bf16 ? 2 : 4))};
  pool_.For(num_panels, [&](int64_t panel, int) {
    for (int64_t i = 0; i < kPanelOutputs && panel * kPanelOutputs + i < rows; ++i) {
      const int64_t source = (panel * kPanelOutputs + i) * cols;
      const int64_t target = panel * kPanelOutputs * cols;
      if (bf16) {
        Bf16* to = static_cast<Bf16*>(packed.data.data()) + target;
        if (weight.dtype() == DType::kBf16) {
          const Bf16* from = weight.as<Bf16>() + source;
          for (int64_t k = 0; k < cols; ++k) to[(k / 2 * kPanelOutputs + i) * 2 + k % 2] = from[k];
        } else {
          for (int64_t k = 0; k < cols; ++k) {
            to[(k / 2 * kPanelOutputs + i) * 2 + k % 2] = ToBf16(weight.as<float>()[source + k]);
          }
        }
      } else {
        float* to = static_cast<float*>(packed.data.data()) + target;
        for (int64_t k = 0; k < cols; ++k) {
          to[k * kPanelOutputs + i] = ElementOf(weight, source + k);
        }
      }
    }
  });
  return packed;
}

}  // namespace facet::kernels
