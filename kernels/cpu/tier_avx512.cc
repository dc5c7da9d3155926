// AVX-512 with BF16: sixteen floats are one register; VDPBF16PS adds both products of a pair.
#include <immintrin.h>

#include "kernels/approx.h"
#include "kernels/cpu/primitives.h"

namespace facet::kernels {
namespace {

constexpr char kTierName[] = "avx512";
constexpr int kGemmRows = 6;
constexpr int kGemmPanels = 4;
constexpr int kPrefetchAhead = 512;

struct Lanes {
  static Lanes Zero() { return Lanes{_mm512_setzero_ps()}; }

  static Lanes Splat(float x) { return Lanes{_mm512_set1_ps(x)}; }

  static Lanes Load(const float* x) { return Lanes{_mm512_loadu_ps(x)}; }

  static Lanes LoadBf16(const Bf16* x) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return Lanes{_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
  }

  void Store(float* x) const { _mm512_storeu_ps(x, all); }

  static Lanes Fma(const Lanes& a, const Lanes& b, const Lanes& c) {
    return Lanes{_mm512_fmadd_ps(a.all, b.all, c.all)};
  }

  static Lanes DotPairs(const Lanes& c, const uint32_t* w, uint32_t x) {
    const __m512i pair = _mm512_set1_epi32(static_cast<int>(x));
    return Lanes{_mm512_dpbf16_ps(c.all, reinterpret_cast<__m512bh>(_mm512_loadu_si512(w)),
                                  reinterpret_cast<__m512bh>(pair))};
  }

  __m512 all;
};

}  // namespace
}  // namespace facet::kernels

#include "kernels/cpu/tier_kernels.inl"

namespace facet::kernels {

const Primitives& Avx512Primitives() { return kPrimitives; }

}  // namespace facet::kernels
