// What every CPU op does with a row of activations: widen, norm, add, round.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/cpu/primitives.h"
#include "kernels/dtype.h"
#include "kernels/tensor_view.h"

namespace facet::kernels {

template <typename T>
constexpr DType kDTypeOf = std::is_same_v<T, Bf16> ? DType::kBf16 : DType::kF32;

template <typename T>
T FromFloat(float value) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return ToBf16(value);
  } else {
    return value;
  }
}

template <typename T>
float Rounded(float value) {
  return ToFloat(FromFloat<T>(value));
}

// Calls op.template operator()<T>() with the type of the activations.
template <typename Op>
void WithElement(DType dtype, const Op& op) {
  if (dtype == DType::kBf16) {
    op.template operator()<Bf16>();
  } else {
    op.template operator()<float>();
  }
}

template <typename T>
void Widen(const T* x, int64_t size, float* y) {
  for (int64_t i = 0; i < size; ++i) y[i] = ToFloat(x[i]);
}

template <typename T>
void Narrow(const float* x, int64_t size, T* y) {
  for (int64_t i = 0; i < size; ++i) y[i] = FromFloat<T>(x[i]);
}

// (mean(x²) + eps)^-0.5
inline float RmsScale(const Primitives& primitives, const float* x, int64_t size, float eps) {
  const float mean = primitives.sum_squares(x, size) / static_cast<float>(size);
  return 1.0F / std::sqrt(mean + eps);
}

// y = round(x · scale · weight); weight may be null. y may be x.
template <typename T, typename Out>
void RmsNormRow(const Primitives& primitives,
                const float* x,
                const T* weight,
                int64_t size,
                float eps,
                Out* y) {
  const float scale = RmsScale(primitives, x, size, eps);
  if (weight == nullptr) {
    for (int64_t i = 0; i < size; ++i) y[i] = FromFloat<Out>(Rounded<T>(x[i] * scale));
  } else {
    for (int64_t i = 0; i < size; ++i) {
      y[i] = FromFloat<Out>(Rounded<T>(x[i] * scale * ToFloat(weight[i])));
    }
  }
}

// hidden = round(hidden + round(RmsNorm(branch) · weight)), the wide result also in wide.
template <typename T>
void AddNormed(const Primitives& primitives,
               const T* branch,
               const T* weight,
               int64_t size,
               float eps,
               T* hidden,
               float* wide) {
  Widen(branch, size, wide);
  RmsNormRow(primitives, wide, weight, size, eps, wide);
  for (int64_t i = 0; i < size; ++i) {
    hidden[i] = FromFloat<T>(ToFloat(hidden[i]) + wide[i]);
    wide[i] = ToFloat(hidden[i]);
  }
}

}  // namespace facet::kernels
