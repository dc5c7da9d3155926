#include "kernels/cuda/cuda_backend.h"
#include "kernels/open_backend.h"

namespace facet::kernels {

OpenedBackend OpenCudaBackend(const BackendChoice& choice, int device) {
  CudaDeviceInfo info;
  const std::string problem = CudaBackend::Probe(device, info);
  if (!problem.empty()) return {.error = problem};
  return {.backend = std::make_unique<CudaBackend>(
              CudaOptions{.device = device, .tables_on_host = choice.tables_on_host})};
}

}  // namespace facet::kernels
