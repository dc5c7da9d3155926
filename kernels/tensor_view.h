// Views of contiguous row-major memory: they own nothing and say shape and element type.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "base/check.h"
#include "kernels/dtype.h"

namespace facet::kernels {

template <typename Void>
class BasicTensorView {
 public:
  BasicTensorView() = default;

  BasicTensorView(Void* data, DType dtype, std::initializer_list<int64_t> shape)
      : data_(data), dtype_(dtype), rank_(static_cast<int>(shape.size())) {
    FACET_CHECK_LE(rank_, 4);
    int i = 0;
    for (const int64_t size : shape) shape_[i++] = size;
  }

  // A view to write through is also one to read through.
  template <typename Other>

  requires(!std::is_const_v<Other> && std::is_const_v<Void>)
      BasicTensorView(const BasicTensorView<Other>& other)  // NOLINT(google-explicit-constructor)
      : data_(other.raw()), dtype_(other.dtype()), rank_(other.rank()) {
    for (int i = 0; i < rank_; ++i) shape_[i] = other.dim(i);
  }

  // The elements; T must be the type that dtype says.
  template <typename T>
  auto* as() const {
    FACET_DCHECK(sizeof(T) == static_cast<size_t>(SizeOf(dtype_)));
    using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
    return static_cast<Element*>(data_);
  }

  Void* raw() const { return data_; }

  DType dtype() const { return dtype_; }

  int rank() const { return rank_; }

  int64_t dim(int i) const { return shape_[i]; }

  int64_t num_elements() const {
    int64_t count = 1;
    for (int i = 0; i < rank_; ++i) count *= shape_[i];
    return rank_ == 0 ? 0 : count;
  }

  bool empty() const { return data_ == nullptr; }

  bool Is(DType dtype, std::initializer_list<int64_t> shape) const {
    if (dtype != dtype_ || static_cast<int>(shape.size()) != rank_) return false;
    int i = 0;
    for (const int64_t size : shape) {
      if (shape_[i++] != size) return false;
    }
    return true;
  }

 private:
  Void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int rank_ = 0;
  std::array<int64_t, 4> shape_{};
};

using TensorView = BasicTensorView<void>;
using ConstTensorView = BasicTensorView<const void>;

}  // namespace facet::kernels
