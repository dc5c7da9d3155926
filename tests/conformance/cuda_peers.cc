#include "base/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/conformance/fast_library.h"
#include "tests/conformance/peers.h"

namespace facet::kernels {

std::vector<Peer> Peers() {
  CudaDeviceInfo info;
  const std::string problem = CudaBackend::Probe(0, info);
  // Without a device there would be no cases, and no case would fail.
  FACET_CHECK(problem.empty()) << problem;
  const Peer exact{.name = "cuda",
                   .make = [] { return std::make_unique<CudaBackend>(CudaOptions()); },
                   .dtypes = {DType::kBf16},
                   .reads_host_memory = false,
                   .width_unit = 8};
  Peer host_tables = exact;
  host_tables.name = "cuda_ple_on_host";
  host_tables.make = [] {
    return std::make_unique<CudaBackend>(CudaOptions{.tables_on_host = true});
  };
  host_tables.num_seeds = 1;
  const std::shared_ptr<CublasLt> library = FastLibrary();
  if (library == nullptr) return {exact, host_tables};
  // All that can be the fast table's is; other kernels were tried above.
  Peer fast = exact;
  fast.name = "cuda_fast";
  fast.make = [library] {
    return std::make_unique<CudaBackend>(
        CudaOptions{.cublas_lt = library, .fast_rows_min = 1, .fast_blocks_min = 1});
  };
  fast.num_seeds = 2;
  return {exact, host_tables, fast};
}

}  // namespace facet::kernels
