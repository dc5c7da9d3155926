// Products of the `fast` table: whole matrices by many rows go to cuBLASLt (cublas_lt.h), whose
// order of sums is its own and changes with the shape. Nothing is promised but the contracts'
// tolerances.
//
// cuBLASLt reads row-major weights, ours lie as fragments. They are unpacked into scratch memory
// before each product: for one weight element 2 bytes read and 2 written, and 2 read by the product
// in any case. At 4.3 TB/s and 800 TFLOP/s (calculated) that is 0.9 ps beside 2.5 fs a row, a third
// of the product at 1024 rows and a tenth at 4096; below CudaOptions::fast_rows_min our own kernels
// keep the work. A second, row-major copy of the weights would save that and take as much memory as
// the weights.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gated_gelu.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/packed_layout.h"
#include "kernels/cuda/ptx.cuh"

namespace facet::kernels {
namespace {

constexpr int kThreads = 256;

struct UnpackArgs {
  const uint4* packed = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;  // A multiple of 8.
  uint4* out = nullptr;
};

// A thread has a lane's two fragments of one block: 8 neighbours of row lane / 4 and of the row 8
// below, which lie together in the output.
__global__ void __launch_bounds__(kThreads) UnpackKernel(const UnpackArgs args) {
  ptx::GridDependencyWait();
  const int64_t num_col_blocks = NumColBlocks(args.cols);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const auto lane = static_cast<int>(index % 32);
  const int64_t block = index / 32;
  const int64_t row = block / num_col_blocks * kTileRows + lane / 4;
  const int64_t col = block % num_col_blocks * kBlockCols + lane % 4 * 8;
  if (row >= args.rows || col >= args.cols) return;
  const uint4 low = ptx::LoadStreaming16(args.packed + block * kBlockVectors + lane);
  const uint4 high = ptx::LoadStreaming16(args.packed + block * kBlockVectors + 32 + lane);
  args.out[(row * args.cols + col) / 8] = uint4{low.x, low.z, high.x, high.z};
  if (row + 8 < args.rows) {
    args.out[((row + 8) * args.cols + col) / 8] = uint4{low.y, low.w, high.y, high.w};
  }
}

// out[i] = GatedGelu(gate[i], up[i]).
__global__ void __launch_bounds__(kThreads)
    GatedGeluKernel(const Bf16* gate, const Bf16* up, Bf16* out, int64_t count) {
  ptx::GridDependencyWait();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) out[i] = GatedGelu(ToFloat(gate[i]), ToFloat(up[i]));
}

ptx::LaunchShape OneThreadEach(int64_t count, cudaStream_t stream) {
  return {.grid = dim3(static_cast<unsigned>(CeilDiv<int64_t>(count, kThreads))),
          .block = dim3(kThreads),
          .stream = stream};
}

cudaError_t LaunchUnpack(
    const uint4* packed, int64_t rows, int64_t cols, Bf16* out, cudaStream_t stream) {
  const int64_t num_lanes = PackedElements(rows, cols) / kBlockElements * 32;
  return ptx::Launch(OneThreadEach(num_lanes, stream), UnpackKernel,
                     UnpackArgs{packed, rows, cols, reinterpret_cast<uint4*>(out)});
}

}  // namespace

bool CudaBackend::IsFast(int64_t num_rows) const {
  return options_.cublas_lt != nullptr && num_rows >= options_.fast_rows_min;
}

void CudaBackend::FastProduct(const char* what,
                              const FastInput& x,
                              const uint4* weight,
                              int64_t num_outputs,
                              Bf16* out,
                              int64_t stride) {
  Bf16* unpacked = ScratchFor<Bf16>(Scratch::kUnpacked, num_outputs * x.cols);
  auto* workspace = ScratchFor<std::byte>(Scratch::kWorkspace, CublasLt::kWorkspaceBytes);
  Check(LaunchUnpack(weight, num_outputs, x.cols, unpacked, stream_), what);
  const bool enqueued = options_.cublas_lt->Enqueue({.a = x.base,
                                                     .b = unpacked,
                                                     .c = out,
                                                     .m = x.num_rows,
                                                     .n = num_outputs,
                                                     .k = x.cols,
                                                     .c_stride = stride},
                                                    workspace, stream_);
  FACET_CHECK(enqueued) << what << ": cuBLASLt refuses a product of" << x.num_rows << "rows,"
                        << num_outputs << "outputs and" << x.cols << "columns";
}

void CudaBackend::Linear(const char* what, const DenseWork<StoreRounded>& work) {
  if (!IsFast(work.num_tokens)) {
    Check(LaunchLinear(work, info_.num_sms, stream_), what);
    return;
  }
  Bf16* out = work.epilogue.out;
  for (const WeightView& weight : work.weights) {
    if (weight.data == nullptr) break;
    FastProduct(what, {work.input.base, work.num_tokens, work.cols}, weight.data, weight.num_rows,
                out, work.epilogue.stride);
    out += weight.num_rows;
  }
}

void CudaBackend::GatedLinear(const char* what, const DenseWork<StoreGatedGelu>& work) {
  if (!IsFast(work.num_tokens)) {
    Check(LaunchGatedGelu(work, info_.num_sms, stream_), what);
    return;
  }
  const int64_t width = work.weights[0].num_rows;
  const int64_t count = work.num_tokens * width;
  FACET_CHECK_EQ(work.epilogue.stride, width) << what;
  Bf16* gate_and_up = ScratchFor<Bf16>(Scratch::kGateAndUp, 2 * count);
  for (int i = 0; i < 2; ++i) {
    FastProduct(what, {work.input.base, work.num_tokens, work.cols}, work.weights[i].data, width,
                gate_and_up + i * count, width);
  }
  Check(ptx::Launch(OneThreadEach(count, stream_), GatedGeluKernel, gate_and_up,
                    gate_and_up + count, work.epilogue.out, count),
        what);
}

}  // namespace facet::kernels
