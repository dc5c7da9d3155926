// What tests of kernels know of where they run: in which order the threads of a kernel run and when
// its asynchronous copies land, and whether recorded launches can be looked into. Each program
// links one definition: on the emulator the seed chooses among what is legal, a GPU does as it
// does.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <string>

namespace facet::kernels {

// For the launches from now on.
void UseExecutionOrder(uint32_t seed);

// CudaOptions::compare_replay: the emulator sees every argument of a launch, a GPU shows none.
std::function<std::string(cudaGraphExec_t, cudaGraph_t)> ReplayComparison();

}  // namespace facet::kernels
