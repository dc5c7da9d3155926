#include "kernels/cuda/cuda_backend.h"
#include "kernels/open_backend.h"

namespace facet::kernels {

OpenedBackend OpenCudaBackend(const BackendChoice& choice, int device) {
  CudaDeviceInfo info;
  const std::string problem = CudaBackend::Probe(device, info);
  if (!problem.empty()) return {.error = problem};
  CudaOptions options{.device = device, .tables_on_host = choice.ple_on_host};
  if (choice.kernels == "fast") {
    std::string why;
    options.cublas_lt = CublasLt::Open(choice.cublas_lt, why);
    if (options.cublas_lt == nullptr)
      return {.error = "kernels is fast, which needs cuBLASLt: " + why};
  }
  return {.backend = std::make_unique<CudaBackend>(options)};
}

}  // namespace facet::kernels
