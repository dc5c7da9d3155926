#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/row_norm.cuh"
#include "kernels/keep_rows.h"

namespace facet::kernels {
namespace {

// One CTA a row.
__global__ void __launch_bounds__(kRowThreads)
    KeepRowsKernel(const Bf16* in, const int32_t* rows, int32_t width, Bf16* out) {
  ptx::GridDependencyWait();
  const Bf16* from = in + static_cast<int64_t>(rows[blockIdx.x]) * width;
  Bf16* to = out + static_cast<int64_t>(blockIdx.x) * width;
  ForPairsOfThread(width, [&](int col) { StorePair(to, col, LoadPair(from, col)); });
  ptx::GridDependencyLaunch();
}

}  // namespace

void CudaBackend::DoKeepRows(const KeepRowsArgs& args) {
  FACET_CHECK_EQ(args.in.dim(1) % 2, 0) << "KeepRows";
  Check(ptx::Launch({.grid = dim3(static_cast<unsigned>(args.rows.dim(0))),
                     .block = dim3(kRowThreads),
                     .stream = stream_},
                    KeepRowsKernel, args.in.as<Bf16>(), args.rows.as<int32_t>(),
                    static_cast<int32_t>(args.in.dim(1)), args.out.as<Bf16>()),
        "KeepRows");
}

}  // namespace facet::kernels
