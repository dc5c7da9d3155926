// From words of a config file or a command line to a backend: the one place that knows which kinds
// of device there are. Which of them are built in is CMake's choice.
#pragma once

#include <memory>
#include <string>

#include "kernels/backend.h"

namespace facet::kernels {

struct BackendChoice {
  std::string device;        // "cpu" (or empty), "cuda:N", or "cuda" for "cuda:0"
  std::string cpu_tier;      // "scalar", "avx2", "avx512"; empty: the best of this machine
  int threads = 0;           // Of the CPU; 0: one for each core
  bool ple_on_host = false;  // CUDA: the per-layer embedding table stays in pinned host memory
  std::string kernels;       // "exact" (or empty); CUDA also "fast", which promises no equal bits
  std::string cublas_lt;     // The library of "fast", a path; empty: what the loader finds
};

// Either a backend or what is wrong with the choice: "device is cuda:1; this machine has 1".
struct OpenedBackend {
  std::unique_ptr<Backend> backend;
  std::string error;
};

OpenedBackend OpenBackend(const BackendChoice& choice);

// The CUDA part: cuda/open_cuda.cc, or open_no_cuda.cc in builds without CUDA.
OpenedBackend OpenCudaBackend(const BackendChoice& choice, int device);

}  // namespace facet::kernels
