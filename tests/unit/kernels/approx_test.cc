#include "kernels/approx.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/sampling_math.h"

namespace facet::kernels {
namespace {

double UlpsApart(float got, double want) {
  const auto rounded = static_cast<float>(want);
  const float step = std::nextafter(std::abs(rounded), INFINITY) - std::abs(rounded);
  return std::abs(got - want) / step;
}

TEST(ApproxTest, ExpStaysWithinTwoUlps) {
  for (float x = -87; x < 88; x += 0.0137F)
    EXPECT_LE(UlpsApart(ApproxExp(x), std::exp(double{x})), 2) << x;
  EXPECT_EQ(ApproxExp(0), 1);
  EXPECT_EQ(ApproxExp(-200), 0);
}

TEST(ApproxTest, LogStaysWithinTwoUlps) {
  for (float x = 1e-7F; x < 1e4F; x *= 1.0037F)
    EXPECT_LE(UlpsApart(ApproxLog(x), std::log(double{x})), 2) << x;
}

TEST(ApproxTest, TanhStaysWithinTwoUlps) {
  for (float x = -12; x < 12; x += 0.0037F)
    EXPECT_LE(UlpsApart(ApproxTanh(x), std::tanh(double{x})), 2) << x;
}

TEST(ApproxTest, GeluIsNearTheFormula) {
  for (float x = -12; x < 12; x += 0.0037F) {
    const double inner = 0.7978845608028654 * (x + 0.044715 * double{x} * x * x);
    EXPECT_NEAR(ApproxGelu(x), 0.5 * x * (1 + std::tanh(inner)),
                1e-6 * std::max(1.0F, std::abs(x)));
  }
}

// Near a zero of sin or cos the rest of the angle is small, and so is the bound of 2 ulp.
TEST(ApproxTest, SinAndCosStayWithinTwoUlps) {
  const auto expect = [](float angle) {
    float sin = 0;
    float cos = 0;
    ApproxSinCos(angle, sin, cos);
    EXPECT_LE(UlpsApart(sin, std::sin(double{angle})), 2) << angle;
    EXPECT_LE(UlpsApart(cos, std::cos(double{angle})), 2) << angle;
  };
  for (float angle = -10; angle < 400; angle += 0.0037F) expect(angle);
  for (float angle = 400; angle < 3e5F; angle += 1.37F) expect(angle);
  for (int quarters = 1; quarters < 200'000; ++quarters) {
    expect(static_cast<float>(quarters * 1.5707963267948966));
  }
  float sin = 1;
  float cos = 0;
  ApproxSinCos(0, sin, cos);
  EXPECT_EQ(sin, 0);
  EXPECT_EQ(cos, 1);
}

// Known answer of Philox 4x32-10 for counter and key of zeros (Random123's kat_vectors).
TEST(SamplingMathTest, PhiloxGivesItsKnownAnswer) {
  EXPECT_EQ(Philox(0, 0, 0, 0, 0, 0), 0x6627e8d5U);
  EXPECT_EQ(Philox(0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff),
            0x408f276dU);
}

TEST(SamplingMathTest, GumbelNoiseHasItsMeanAndVariance) {
  double sum = 0;
  double squares = 0;
  constexpr int kDraws = 200'000;
  for (int i = 0; i < kDraws; ++i) {
    const double noise =
        GumbelNoise({.seed = 5, .position = static_cast<uint64_t>(i / 1000)}, i % 1000);
    sum += noise;
    squares += noise * noise;
  }
  const double mean = sum / kDraws;
  EXPECT_NEAR(mean, 0.5772, 0.02);                            // Euler's constant.
  EXPECT_NEAR(squares / kDraws - mean * mean, 1.6449, 0.04);  // pi^2 / 6.
}

}  // namespace
}  // namespace facet::kernels
