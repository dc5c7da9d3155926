// Integer arithmetic whose rounding is in the name.
#pragma once

#include <cstdint>

namespace facet {

// ⌈a / b⌉ for a ≥ 0, b > 0.
template <typename T>
constexpr T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

// The smallest multiple of b that is ≥ a.
template <typename T>
constexpr T RoundUp(T a, T b) {
  return CeilDiv(a, b) * b;
}

}  // namespace facet
