// exp, log, tanh, GELU, sin and cos by polynomials: the same operations in the same order on every
// device, so that equal inputs give equal bits without libm. Each stays within 2 ulp of the true
// value over the range that is named. No contraction into fused operations is assumed or wanted:
// host files that include this are compiled with -ffp-contract=off, device files with -fmad=false.
// Source of the coefficients: Cephes math library (S. Moshier), expf.c, logf.c, tanhf.c, sinf.c.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace facet::kernels {

// e^x; below -87.3 it is 0, above 88.3 it stays at e^88.3.
FACET_ALWAYS_INLINE float ApproxExp(float x) {
  const float clamped = x < -87.3F ? -87.3F : (x > 88.3F ? 88.3F : x);
  // n = round(x / ln 2): adding and taking away 1.5 * 2^23 rounds to nearest even.
  const float shifted = clamped * 1.44269504F + 12582912.0F;
  const float n = shifted - 12582912.0F;
  float r = clamped - n * 0.693359375F;
  r = r - n * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float y = p * (r * r) + r + 1.0F;
  const auto exponent = static_cast<int32_t>(n);
  const float power = FloatOfBits(static_cast<uint32_t>(exponent + 127) << 23);
  const float result = y * power;
  return x < -87.3F ? 0.0F : result;
}

// ln x for normal x > 0.
FACET_ALWAYS_INLINE float ApproxLog(float x) {
  const uint32_t bits = BitsOfFloat(x);
  auto exponent = static_cast<int32_t>(bits >> 23) - 126;
  float m = FloatOfBits((bits & 0x007fffff) | 0x3f000000);  // In [0.5, 1).
  if (m < 0.707106781F) {
    m = m + m;
    exponent -= 1;
  }
  m = m - 1.0F;
  const float z = m * m;
  float p = 7.0376836292e-2F;
  p = p * m - 1.1514610310e-1F;
  p = p * m + 1.1676998740e-1F;
  p = p * m - 1.2420140846e-1F;
  p = p * m + 1.4249322787e-1F;
  p = p * m - 1.6668057665e-1F;
  p = p * m + 2.0000714765e-1F;
  p = p * m - 2.4999993993e-1F;
  p = p * m + 3.3333331174e-1F;
  float y = m * z * p;
  const auto e = static_cast<float>(exponent);
  y = y + e * -2.12194440e-4F;
  y = y - 0.5F * z;
  return m + y + e * 0.693359375F;
}

FACET_ALWAYS_INLINE float ApproxTanh(float x) {
  const float a = x < 0 ? -x : x;
  const float z = x * x;
  float p = -5.70498872745e-3F;
  p = p * z + 2.06390887954e-2F;
  p = p * z - 5.37397155531e-2F;
  p = p * z + 1.33314422036e-1F;
  p = p * z - 3.33332819422e-1F;
  const float small = p * z * x + x;
  const float large = 1.0F - 2.0F / (ApproxExp(a + a) + 1.0F);
  const float signed_large = x < 0 ? -large : large;
  return a < 0.625F ? small : signed_large;
}

// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
FACET_ALWAYS_INLINE float ApproxGelu(float x) {
  const float inner = 0.797884560802865F * (x + 0.044715F * (x * x * x));
  return 0.5F * x * (1.0F + ApproxTanh(inner));
}

// sin and cos of an angle of at most 2^20 either way. The nearest multiple of pi/2 is taken away in
// double, in two parts of which the first has 33 bits, so that its product with the multiple is
// exact (Cody and Waite; constants of fdlibm e_rem_pio2.c).
FACET_ALWAYS_INLINE void ApproxSinCos(float angle, float& sin, float& cos) {
  // Adding and taking away 1.5 * 2^52 rounds to nearest even.
  const double shifted = static_cast<double>(angle) * 0.63661977236758134 + 6755399441055744.0;
  const double multiple = shifted - 6755399441055744.0;
  const double rest = static_cast<double>(angle) - multiple * 1.57079632673412561417;
  const auto x = static_cast<float>(rest - multiple * 6.07710050650619224932e-11);
  const float z = x * x;
  float p = -1.9515295891e-4F;
  p = p * z + 8.3321608736e-3F;
  p = p * z - 1.6666654611e-1F;
  const float s = p * z * x + x;
  float q = 2.443315711809948e-5F;
  q = q * z - 1.388731625493765e-3F;
  q = q * z + 4.166664568298827e-2F;
  const float c = q * z * z - 0.5F * z + 1.0F;
  const int32_t quadrant = static_cast<int32_t>(multiple) & 3;
  const float turned_sin = quadrant % 2 == 0 ? s : c;
  const float turned_cos = quadrant % 2 == 0 ? c : s;
  sin = quadrant < 2 ? turned_sin : -turned_sin;
  cos = quadrant == 0 || quadrant == 3 ? turned_cos : -turned_cos;
}

}  // namespace facet::kernels
