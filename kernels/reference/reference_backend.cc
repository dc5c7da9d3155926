#include "kernels/reference/reference_backend.h"

#include <cstdlib>
#include <cstring>

#include "kernels/reference/plain.h"

namespace facet::kernels {

Buffer ReferenceBackend::Allocate(int64_t bytes) {
  const int64_t rounded = (bytes + 63) / 64 * 64;
  void* data = std::aligned_alloc(64, rounded);
  FACET_CHECK(data != nullptr) << bytes << "bytes";
  std::memset(data, 0, rounded);
  return Buffer(data, bytes, [](void* memory) { std::free(memory); });
}

PackedWeight ReferenceBackend::Pack(const ConstTensorView& weight, WeightFormat format) {
  const DType dtype = format == WeightFormat::kBf16 ? DType::kBf16 : DType::kF32;
  PackedWeight packed{.rows = weight.dim(0),
                      .cols = weight.dim(1),
                      .format = format,
                      .data = Allocate(weight.num_elements() * SizeOf(dtype))};
  const TensorView copy(packed.data.data(), dtype, {packed.rows, packed.cols});
  for (int64_t i = 0; i < weight.num_elements(); ++i) {
    reference::Put(copy, i, reference::At(weight, i));
  }
  return packed;
}

Buffer ReferenceBackend::Upload(const ConstTensorView& host, DType dtype) {
  Buffer copy = Allocate(host.num_elements() * SizeOf(dtype));
  const TensorView view(copy.data(), dtype, {host.num_elements()});
  for (int64_t i = 0; i < host.num_elements(); ++i) reference::Put(view, i, reference::At(host, i));
  return copy;
}

}  // namespace facet::kernels
