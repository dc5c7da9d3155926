#include "base/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/conformance/peers.h"

namespace facet::kernels {

// Tables are kept on the device: a test's host memory is not pinned.
std::vector<Peer> Peers() {
  CudaDeviceInfo info;
  const std::string problem = CudaBackend::Probe(0, info);
  // Without a device there would be no cases, and no case would fail.
  FACET_CHECK(problem.empty()) << problem;
  return {{.name = "cuda",
           .make = [] { return std::make_unique<CudaBackend>(CudaOptions()); },
           .dtypes = {DType::kBf16},
           .reads_host_memory = false,
           .width_unit = 8}};
}

}  // namespace facet::kernels
