#include "kernels/open_backend.h"

namespace facet::kernels {

OpenedBackend OpenCudaBackend(const BackendChoice& choice, int) {
  return {.error = "device is " + choice.device +
                   "; this build has no CUDA backend (cmake --preset cuda makes one that has)"};
}

}  // namespace facet::kernels
