// cuBLASLt for tests of the `fast` kernel table: the stand-in on the emulator, the real one on a
// device. Each program links one definition.
#pragma once

#include <memory>

#include "kernels/cuda/cublas_lt.h"

namespace facet::kernels {

// Null where there is none.
std::shared_ptr<CublasLt> FastLibrary();

}  // namespace facet::kernels
