// A weight matrix in the layout that its backend reads fastest.
#pragma once

#include <cstdint>

#include "kernels/buffer.h"
#include "kernels/dtype.h"

namespace facet::kernels {

// How the elements of a packed weight are stored. int8 and int4 formats come beside these.
enum class WeightFormat { kF32, kBf16 };

constexpr WeightFormat FormatOf(DType dtype) {
  return dtype == DType::kBf16 ? WeightFormat::kBf16 : WeightFormat::kF32;
}

// [rows, cols] as published (out, in); only the backend that packed it knows the layout of data.
struct PackedWeight {
  int64_t rows = 0;
  int64_t cols = 0;
  WeightFormat format = WeightFormat::kF32;
  Buffer data;

  bool empty() const { return rows == 0; }
};

}  // namespace facet::kernels
