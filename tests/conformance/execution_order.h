// In which order the threads of a kernel run and when its asynchronous copies land. Each program
// links one definition: on the emulator the seed chooses among what is legal, a GPU does as it
// does.
#pragma once

#include <cstdint>

namespace facet::kernels {

// For the launches from now on.
void UseExecutionOrder(uint32_t seed);

}  // namespace facet::kernels
