// Weights into the layout of packed_layout.h, on the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/dtype.h"

namespace facet::kernels {

struct PackArgs {
  const void* source = nullptr;  // [rows, cols] on the device, row-major, f32 or bf16
  bool source_is_f32 = false;
  int64_t rows = 0;
  int64_t cols = 0;
  Bf16* packed = nullptr;  // PackedElements(rows, cols), all of which are written
};

cudaError_t LaunchPack(const PackArgs& args, cudaStream_t stream);

}  // namespace facet::kernels
