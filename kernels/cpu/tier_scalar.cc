// The tier that every x86-64 and Arm machine has. Sixteen floats are an array.
#include "kernels/approx.h"
#include "kernels/cpu/primitives.h"

namespace facet::kernels {
namespace {

constexpr char kTierName[] = "scalar";
constexpr int kGemmRows = 4;
constexpr int kGemmPanels = 1;
constexpr int kPrefetchAhead = 128;

struct Lanes {
  static Lanes Zero() { return Lanes{}; }

  static Lanes Splat(float x) {
    Lanes lanes;
    for (float& value : lanes.values) value = x;
    return lanes;
  }

  static Lanes Load(const float* x) {
    Lanes lanes;
    for (int i = 0; i < kPanelOutputs; ++i) lanes.values[i] = x[i];
    return lanes;
  }

  static Lanes LoadBf16(const Bf16* x) {
    Lanes lanes;
    for (int i = 0; i < kPanelOutputs; ++i) lanes.values[i] = ToFloat(x[i]);
    return lanes;
  }

  void Store(float* x) const {
    for (int i = 0; i < kPanelOutputs; ++i) x[i] = values[i];
  }

  static Lanes Fma(const Lanes& a, const Lanes& b, const Lanes& c) {
    Lanes lanes;
    for (int i = 0; i < kPanelOutputs; ++i)
      lanes.values[i] = a.values[i] * b.values[i] + c.values[i];
    return lanes;
  }

  static Lanes DotPairs(const Lanes& c, const uint32_t* w, uint32_t x) {
    const float low = FloatOfBits(x << 16);
    const float high = FloatOfBits(x & 0xffff0000);
    Lanes lanes;
    // Products of two bf16 are exact in float: adding the pair first rounds once less.
    for (int i = 0; i < kPanelOutputs; ++i) {
      const float pair = FloatOfBits(w[i] << 16) * low + FloatOfBits(w[i] & 0xffff0000) * high;
      lanes.values[i] = c.values[i] + pair;
    }
    return lanes;
  }

  float values[kPanelOutputs] = {};
};

}  // namespace
}  // namespace facet::kernels

#include "kernels/cpu/tier_kernels.inl"

namespace facet::kernels {

const Primitives& ScalarPrimitives() { return kPrimitives; }

}  // namespace facet::kernels
