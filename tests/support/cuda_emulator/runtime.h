// What device.h needs of the runtime: work is put into a stream and runs, in order, when somebody
// waits for it, so that a host that reads too early or reuses memory too early gets wrong answers.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace facet::cuda_emulator {

void Enqueue(cudaStream_t stream, std::function<void()> work);

}  // namespace facet::cuda_emulator
