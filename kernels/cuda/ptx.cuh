// Every device instruction that our kernels use by name, and how a kernel is launched. No other
// file under kernels/cuda holds inline assembly, __shared__ or <<<>>>, so that the same .cu sources
// also run on a CPU: there the build defines FACET_CUDA_EMULATED and the names below come from
// tests/support/cuda_emulator/device.h, which executes them with threads as fibers.
//
// Rules for kernels (each one is something the emulator relies on):
// 1. Shared memory comes from FACET_SHARED and SmemArena, one Take per logical buffer.
// 2. Nobody spins on plain memory; waits go through MBarrierWait or LoadAcquire.
// 3. All lanes of a warp reach a collective (shuffle, ballot, ldmatrix, mma) from one source line;
//    an early return is for whole warps, before any collective.
// 4. Arguments are plain structs by value; no device lambdas as arguments, no __constant__, no
//    __CUDA_ARCH__ in kernels: the emulated path would differ.
// 5. Files are compiled without contraction (-fmad=false); a fused product is written fmaf.
// 6. Bulk copies of a phase are issued before the same thread's MBarrierArriveExpect of that phase.
//
// Devices from compute capability 8.0. What 9.0 brought is replaced below it, here and nowhere
// else: a dependent launch is an ordinary one, a bulk copy is made by the calling thread, and
// fences for the asynchronous copy engine are nothing.
// Source: PTX ISA 9.0, the section named beside each wrapper.
#pragma once

#ifdef FACET_CUDA_EMULATED
#include <cuda_emulator/device.h>
#else

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#define FACET_DEVICE __device__ __forceinline__

// Whether the device code being compiled may use what compute capability 9.0 brought.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define FACET_SM90 1
#else
#define FACET_SM90 0
#endif

// The same for what only 9.0 has, code that is built for sm_90a.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define FACET_SM90A 1
#else
#define FACET_SM90A 0
#endif

// A variable of the block in static shared memory: FACET_SHARED(is_last, bool).
#define FACET_SHARED(name, ...) __shared__ std::type_identity_t<__VA_ARGS__> name

namespace facet::kernels::ptx {

// Whether kernels may use products of warpgroups and change their number of registers. Where they
// may not, such a kernel is left empty and is never launched (CudaBackend).
inline constexpr bool kHasWarpgroups = FACET_SM90A == 1;

extern __shared__ __align__(1024) unsigned char dynamic_smem[];

// Cuts the dynamic shared memory of a launch into buffers. Every thread makes the same calls.
class SmemArena {
 public:
  template <typename T>
  FACET_DEVICE T* Take(size_t count, size_t align = 16) {
    used_ = (used_ + align - 1) / align * align;
    T* piece = reinterpret_cast<T*>(dynamic_smem + used_);
    used_ += count * sizeof(T);
    return piece;
  }

 private:
  size_t used_ = 0;
};

FACET_DEVICE uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- Barriers and votes -----------------------------------------------------------------------

FACET_DEVICE void SyncThreads() { __syncthreads(); }

FACET_DEVICE void SyncWarp() { __syncwarp(); }

// bar.sync / bar.arrive: num_threads threads meet at barrier id (1 to 15; 0 is SyncThreads).
FACET_DEVICE void NamedBarrierSync(int id, uint32_t num_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

FACET_DEVICE void NamedBarrierArrive(int id, uint32_t num_threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

// All 32 lanes take part. T has 4 or 8 bytes.
template <typename T>
FACET_DEVICE T ShuffleXor(T value, int lane_mask) {
  return __shfl_xor_sync(~0U, value, lane_mask);
}

template <typename T>
FACET_DEVICE T ShuffleFrom(T value, int lane) {
  return __shfl_sync(~0U, value, lane);
}

template <typename T>
FACET_DEVICE T ShuffleUp(T value, int delta) {
  return __shfl_up_sync(~0U, value, delta);
}

FACET_DEVICE uint32_t Ballot(bool vote) { return __ballot_sync(~0U, vote); }

FACET_DEVICE int CountBits(uint32_t bits) { return __popc(bits); }

// --- Memory between blocks --------------------------------------------------------------------

FACET_DEVICE void ThreadFence() { __threadfence(); }

// Relaxed, device scope; returns the value before.
template <typename T>
FACET_DEVICE T AtomicAdd(T* address, std::type_identity_t<T> value) {
  return atomicAdd(address, value);
}

template <typename T>
FACET_DEVICE T AtomicMax(T* address, std::type_identity_t<T> value) {
  return atomicMax(address, value);
}

// ld.acquire.gpu: may be called in a loop that waits for another block.
FACET_DEVICE uint32_t LoadAcquire(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

FACET_DEVICE void StoreRelease(uint32_t* address, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

// 16 bytes that no other block of this launch reads: past L1, first to leave L2 (weights).
FACET_DEVICE uint4 LoadStreaming16(const void* address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

// --- Asynchronous copies to shared memory (9.7.9.25) ------------------------------------------

// 16 bytes, zeros if not valid. Both addresses are multiples of 16.
FACET_DEVICE void CpAsync16(void* shared, const void* global, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}

FACET_DEVICE void CpAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kGroups of this thread's groups are under way.
template <int kGroups>
FACET_DEVICE void CpAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

FACET_DEVICE void MBarrierInit(uint64_t* barrier, uint32_t num_arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(num_arrivals)
               : "memory");
}

FACET_DEVICE void MBarrierInitFence() {
#if FACET_SM90
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Arrives once what this thread has copied with CpAsync16 so far has landed.
FACET_DEVICE void MBarrierArriveAfterCopies(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(SharedAddress(barrier))
               : "memory");
}

FACET_DEVICE void MBarrierArrive(uint64_t* barrier) {
  asm volatile("{ .reg .b64 t; mbarrier.arrive.shared.b64 t, [%0]; }" ::"r"(SharedAddress(barrier))
               : "memory");
}

// Arrives; the phase also waits for bytes of bulk copies, which were issued before.
FACET_DEVICE void MBarrierArriveExpect(uint64_t* barrier, uint32_t bytes) {
#if FACET_SM90
  asm volatile("{ .reg .b64 t; mbarrier.arrive.expect_tx.shared.b64 t, [%0], %1; }" ::"r"(
                   SharedAddress(barrier)),
               "r"(bytes)
               : "memory");
#else
  static_cast<void>(bytes);  // They are there.
  MBarrierArrive(barrier);
#endif
}

// Until the phase of this parity has ended.
FACET_DEVICE void MBarrierWait(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
#if FACET_SM90
        "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
#else
        "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
#endif
        : "=r"(done)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  }
}

// cp.async.bulk: bytes is a multiple of 16; lands when the barrier's phase ends.
FACET_DEVICE void BulkCopyToShared(void* shared,
                                   const void* global,
                                   uint32_t bytes,
                                   uint64_t* barrier) {
#if FACET_SM90
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
#else
  static_cast<void>(barrier);  // MBarrierArriveExpect releases what this thread wrote.
  for (uint32_t i = 0; i < bytes / 16; ++i) {
    static_cast<uint4*>(shared)[i] = static_cast<const uint4*>(global)[i];
  }
#endif
}

FACET_DEVICE void FenceProxyAsync() {
#if FACET_SM90
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// --- Matrix fragments (9.7.14) ----------------------------------------------------------------

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
FACET_DEVICE void LdMatrixX4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

FACET_DEVICE void LdMatrixX4Trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

FACET_DEVICE void LdMatrixX2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(SharedAddress(row))
               : "memory");
}

// mma.sync m16n8k16, bf16 in, f32 out: d += a b. With g = lane / 4 and t = lane % 4:
//   a[0..3]: rows g, g + 8, g, g + 8; columns 2t, 2t + 1 in a[0], a[1] and 2t + 8, 2t + 9 in a[2],
//   a[3]. b[0], b[1]: rows 2t, 2t + 1 and 2t + 8, 2t + 9 of column g. d[0..3]: row g columns 2t,
//   2t + 1, then row g + 8.
FACET_DEVICE void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Two floats rounded to nearest even bf16; low in the lower half.
FACET_DEVICE uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2^x to some 2 ulp; the one operation whose bits differ from the emulator's.
FACET_DEVICE float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// --- Products of warpgroups (9.7.15) ----------------------------------------------------------

// Only where kHasWarpgroups. A warpgroup is four warps, the first a multiple of four. d += a b runs
// on its own from the product to WgmmaWait; until then nobody touches d, a in registers and the
// memory of a and b. With w = warp % 4, g = lane / 4, t = lane % 4: d[4i .. 4i + 3] are row 16w + g
// columns 8i + 2t, 8i + 2t + 1, then row 16w + g + 8. Matrices in shared memory: KMajor and MnMajor
// below.
//
// In each thread: FenceProxyAsync after it has waited for memory that threads have written,
// CpAsync16 too; WgmmaFence; products; WgmmaCommit; WgmmaWait; WgmmaResult of what is read then.
FACET_DEVICE void WgmmaFence() {
#if FACET_SM90A
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

FACET_DEVICE void WgmmaCommit() {
#if FACET_SM90A
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits until at most kGroups of this warpgroup's groups are under way.
template <int kGroups>
FACET_DEVICE void WgmmaWait() {
#if FACET_SM90A
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
#endif
}

// What follows reads d after the wait before, not earlier.
template <int kCount>
FACET_DEVICE void WgmmaResult(float (&d)[kCount]) {
#pragma unroll
  for (float& value : d) asm volatile("" : "+f"(value)::"memory");
}

#define FACET_ACCUMULATORS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FACET_ACCUMULATORS_8(d, i) FACET_ACCUMULATORS_4(d, i), FACET_ACCUMULATORS_4(d, i + 4)
#define FACET_ACCUMULATORS_16(d, i) FACET_ACCUMULATORS_8(d, i), FACET_ACCUMULATORS_8(d, i + 8)
#define FACET_ACCUMULATORS_32(d, i) FACET_ACCUMULATORS_16(d, i), FACET_ACCUMULATORS_16(d, i + 16)

// wgmma m64nNk16 with N = kColumns: a (64 x 16) and b (16 x kColumns) both KMajor. d = a b unless
// add.
template <int kColumns>
FACET_DEVICE void WgmmaBf16(float (&d)[kColumns / 2], uint64_t a, uint64_t b, bool add) {
  static_assert(kColumns == 32 || kColumns == 64);
#if FACET_SM90A
  if constexpr (kColumns == 32) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %18, 0; "
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "%16, %17, p, 1, 1, 0, 0; }"
        : FACET_ACCUMULATORS_16(d, 0)
        : "l"(a), "l"(b), "r"(add ? 1 : 0)
        : "memory");
  } else {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %34, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, 0, 0; }"
        : FACET_ACCUMULATORS_32(d, 0)
        : "l"(a), "l"(b), "r"(add ? 1 : 0)
        : "memory");
  }
#endif
}

// wgmma m64n128k16: each warp's sixteen rows of a as in MmaBf16, b (16 x 128) MnMajor.
FACET_DEVICE void WgmmaBf16(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
#if FACET_SM90A
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
      : FACET_ACCUMULATORS_32(d, 0), FACET_ACCUMULATORS_32(d, 32)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
      : "memory");
#endif
}

#undef FACET_ACCUMULATORS_4
#undef FACET_ACCUMULATORS_8
#undef FACET_ACCUMULATORS_16
#undef FACET_ACCUMULATORS_32

// setmaxnreg: by all threads of a warpgroup, in the one branch that is theirs.
template <int kRegisters>
FACET_DEVICE void GiveRegisters() {
#if FACET_SM90A
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

template <int kRegisters>
FACET_DEVICE void TakeRegisters() {
#if FACET_SM90A
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// --- Programmatic dependent launch (9.7.13.13) ------------------------------------------------

// Until the launches before this one have ended and their writes can be seen. What comes before it
// may touch weights only. Every kernel calls it once, also in blocks that have nothing to do.
FACET_DEVICE void GridDependencyWait() {
#if FACET_SM90
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next launch begin; not a fence.
FACET_DEVICE void GridDependencyLaunch() {
#if FACET_SM90
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- Launch -----------------------------------------------------------------------------------

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t smem_bytes = 0;  // What the kernel's SmemArena takes.
  cudaStream_t stream = nullptr;
  bool overlap_previous = true;  // The kernel calls GridDependencyWait.
};

// Whether a launch on the current device may begin before the one before it has ended.
inline cudaError_t HasDependentLaunch(bool& has) {
  int device = 0;
  int major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  has = major >= 9;
  return error;
}

// Enqueues kernel(args...). The first launch error is returned, not kept.
template <typename... Params, typename... Args>
cudaError_t Launch(const LaunchShape& shape, void (*kernel)(Params...), Args&&... args) {
  constexpr size_t kStaticLimit = 48 * 1024;
  if (shape.smem_bytes > kStaticLimit) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shape.smem_bytes));
    if (error != cudaSuccess) return error;
  }
  bool has_dependent_launch = false;
  const cudaError_t error = HasDependentLaunch(has_dependent_launch);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.smem_bytes;
  config.stream = shape.stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = shape.overlap_previous && has_dependent_launch ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

}  // namespace facet::kernels::ptx

#endif  // FACET_CUDA_EMULATED

namespace facet::kernels::ptx {

// --- Matrices that products of warpgroups read from shared memory (9.7.15.5.1) -----------------
//
// Pieces of eight rows by 128 bytes, each at a multiple of 1024, in which the 16-byte chunk c of
// row r lies at chunk c ^ r. A matrix may begin at any chunk of row 0.

namespace detail {

FACET_DEVICE uint64_t SwizzledMatrix(uint32_t address, uint32_t leading, uint32_t stride) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | uint64_t{stride / 16} << 32 | uint64_t{leading / 16} << 16 | address / 16;
}

}  // namespace detail

// Rows of the matrix are rows of pieces, which hold neighbours of k. The next eight rows begin
// stride bytes further.
FACET_DEVICE uint64_t KMajor(const void* shared, uint32_t stride) {
  return detail::SwizzledMatrix(SharedAddress(shared), 16, stride);
}

// Each row of a piece is one k and holds 64 neighbours of the other dimension. The next eight of k
// begin stride bytes further, the next 64 neighbours next_piece bytes.
FACET_DEVICE uint64_t MnMajor(const void* shared, uint32_t stride, uint32_t next_piece) {
  return detail::SwizzledMatrix(SharedAddress(shared), next_piece, stride);
}

}  // namespace facet::kernels::ptx
