// Words that all reference ops are written in: load, store, norm, linear.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/dtype.h"
#include "kernels/misreading.h"
#include "kernels/packed_weight.h"
#include "kernels/tensor_view.h"

namespace facet::kernels::reference {

using Row = std::vector<float>;

inline float At(const ConstTensorView& view, int64_t i) {
  return view.dtype() == DType::kBf16 ? ToFloat(view.as<Bf16>()[i]) : view.as<float>()[i];
}

// Rounds to the view's dtype.
inline void Put(const TensorView& view, int64_t i, float value) {
  if (view.dtype() == DType::kBf16) {
    view.as<Bf16>()[i] = ToBf16(value);
  } else {
    view.as<float>()[i] = value;
  }
}

// Row r of a view whose last dimension is its row length.
inline Row RowOf(const ConstTensorView& view, int64_t r) {
  const int64_t width = view.dim(view.rank() - 1);
  Row row(width);
  for (int64_t i = 0; i < width; ++i) row[i] = At(view, r * width + i);
  return row;
}

inline void PutRow(const TensorView& view, int64_t r, const Row& row) {
  const int64_t width = view.dim(view.rank() - 1);
  for (int64_t i = 0; i < width; ++i) Put(view, r * width + i, row[i]);
}

// round(x · (mean(x²) + eps)^-0.5 · weight); weight may be empty.
inline Row RmsNorm(const Row& x, const ConstTensorView& weight, float eps, DType dtype) {
  if (Misread(Misreading::kEpsHardCoded)) eps = 1e-6F;
  double sum = 0;
  for (const float value : x) sum += static_cast<double>(value) * value;
  const auto scale = static_cast<float>(std::pow(sum / static_cast<double>(x.size()) + eps, -0.5));
  Row y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    float w = weight.empty() ? 1.0F : At(weight, static_cast<int64_t>(i));
    if (Misread(Misreading::kNormPlusOne) && !weight.empty()) w += 1;
    y[i] = RoundTo(dtype, x[i] * scale * w);
  }
  return y;
}

inline float WeightAt(const PackedWeight& weight, int64_t row, int64_t col) {
  const int64_t i = row * weight.cols + col;
  return weight.format == WeightFormat::kBf16
             ? ToFloat(static_cast<const Bf16*>(weight.data.data())[i])
             : static_cast<const float*>(weight.data.data())[i];
}

// round(W x).
inline Row Linear(const PackedWeight& weight, const Row& x, DType dtype) {
  Row y(weight.rows);
  for (int64_t r = 0; r < weight.rows; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < weight.cols; ++c) {
      sum += static_cast<double>(WeightAt(weight, r, c)) * x[c];
    }
    y[r] = RoundTo(dtype, static_cast<float>(sum));
  }
  return y;
}

inline Row Add(const Row& a, const Row& b, DType dtype) {
  Row sum(a.size());
  for (size_t i = 0; i < a.size(); ++i) sum[i] = RoundTo(dtype, a[i] + b[i]);
  return sum;
}

inline Row Scale(const Row& a, float factor, DType dtype) {
  Row scaled(a.size());
  for (size_t i = 0; i < a.size(); ++i) scaled[i] = RoundTo(dtype, a[i] * factor);
  return scaled;
}

inline float Gelu(float x) {
  if (Misread(Misreading::kGeluErf)) return 0.5F * x * (1 + std::erf(x / std::sqrt(2.0F)));
  return 0.5F * x * (1 + std::tanh(0.797884560802865F * (x + 0.044715F * x * x * x)));
}

// round(round(gelu(gate)) * up).
inline Row GatedGelu(const Row& gate, const Row& up, DType dtype) {
  Row act(gate.size());
  for (size_t i = 0; i < gate.size(); ++i) {
    act[i] = RoundTo(dtype, RoundTo(dtype, Gelu(gate[i])) * up[i]);
  }
  return act;
}

}  // namespace facet::kernels::reference
