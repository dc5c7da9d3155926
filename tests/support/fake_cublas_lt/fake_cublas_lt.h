// A stand-in for libcublasLt on the emulator: products of row-major bf16 as cublas_lt.cc asks for
// them, summed upwards in double, enqueued on the emulated stream. fake_cublas_lt.cc is built as a
// shared library at the path FAKE_CUBLAS_LT.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace facet {

// How the library, which is not linked to the emulator, puts work on a stream.
using EnqueueWork = void (*)(cudaStream_t stream, std::function<void()> work);

}  // namespace facet
