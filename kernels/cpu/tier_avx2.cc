// AVX2 and FMA: sixteen floats are two registers; bf16 is widened by shifts.
#include <immintrin.h>

#include "kernels/approx.h"
#include "kernels/cpu/primitives.h"

namespace facet::kernels {
namespace {

constexpr char kTierName[] = "avx2";
constexpr int kGemmRows = 4;
constexpr int kGemmPanels = 1;
constexpr int kPrefetchAhead = 256;

struct Lanes {
  static Lanes Zero() { return Lanes{_mm256_setzero_ps(), _mm256_setzero_ps()}; }

  static Lanes Splat(float x) { return Lanes{_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

  static Lanes Load(const float* x) { return Lanes{_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }

  static Lanes LoadBf16(const Bf16* x) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return Lanes{Widen(_mm256_castsi256_si128(halves)), Widen(_mm256_extracti128_si256(halves, 1))};
  }

  void Store(float* x) const {
    _mm256_storeu_ps(x, low);
    _mm256_storeu_ps(x + 8, high);
  }

  static Lanes Fma(const Lanes& a, const Lanes& b, const Lanes& c) {
    return Lanes{_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }

  static Lanes DotPairs(const Lanes& c, const uint32_t* w, uint32_t x) {
    const __m256 first = _mm256_set1_ps(FloatOfBits(x << 16));
    const __m256 second = _mm256_set1_ps(FloatOfBits(x & 0xffff0000));
    return Lanes{Pairs(c.low, w, first, second), Pairs(c.high, w + 8, first, second)};
  }

  static __m256 Widen(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }

  static __m256 Pairs(__m256 c, const uint32_t* w, __m256 first, __m256 second) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
    const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    const __m256 odd = _mm256_castsi256_ps(
        _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
    return _mm256_fmadd_ps(odd, second, _mm256_fmadd_ps(even, first, c));
  }

  __m256 low;
  __m256 high;
};

}  // namespace
}  // namespace facet::kernels

#include "kernels/cpu/tier_kernels.inl"

namespace facet::kernels {

const Primitives& Avx2Primitives() { return kPrimitives; }

}  // namespace facet::kernels
