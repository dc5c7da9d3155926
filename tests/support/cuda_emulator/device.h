// The names of kernels/cuda/ptx.cuh on a CPU. What each one does on the device is said there.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "kernels/dtype.h"
#include "tests/support/cuda_emulator/async_copies.h"
#include "tests/support/cuda_emulator/runtime.h"
#include "tests/support/cuda_emulator/scheduler.h"
#include "tests/support/cuda_emulator/warpgroup_products.h"

#define FACET_DEVICE inline
#define __shared__ use_FACET_SHARED_instead  // NOLINT(bugprone-reserved-identifier)
#define threadIdx (::facet::cuda_emulator::Current().thread)
#define blockIdx (::facet::cuda_emulator::Current().block)
#define blockDim (::facet::cuda_emulator::Current().block_size)
#define gridDim (::facet::cuda_emulator::Current().grid_size)

// The address of a local static is the variable's key: one for each place and template instance.
#define FACET_SHARED(name, ...)                                                                   \
  static const char name##_key = 0;                                                               \
  auto& name = *reinterpret_cast<std::type_identity_t<__VA_ARGS__>*>(                             \
      ::facet::cuda_emulator::StaticPiece(&name##_key, sizeof(std::type_identity_t<__VA_ARGS__>), \
                                          alignof(std::type_identity_t<__VA_ARGS__>) > 16         \
                                              ? alignof(std::type_identity_t<__VA_ARGS__>)        \
                                              : 16))

namespace facet::kernels::ptx {

using cuda_emulator::Fail;
using cuda_emulator::kWarpLanes;
using cuda_emulator::Place;

inline constexpr bool kHasWarpgroups = true;

class SmemArena {
 public:
  template <typename T>
  T* Take(size_t count, size_t align = 16, Place place = Place::Here()) {
    used_ = (used_ + align - 1) / align * align;
    std::byte* piece = cuda_emulator::DynamicPiece(used_, count * sizeof(T), align, place);
    used_ += count * sizeof(T);
    return reinterpret_cast<T*>(piece);
  }

 private:
  size_t used_ = 0;
};

inline uint32_t SharedAddress(const void* p, Place place = Place::Here()) {
  return cuda_emulator::SharedOffset(p, 1, place);
}

// --- Barriers and votes -----------------------------------------------------------------------

inline void SyncThreads(Place place = Place::Here()) {
  cuda_emulator::BlockBarrier(0, 0, /*wait=*/true, place);
}

inline void SyncWarp(Place place = Place::Here()) { cuda_emulator::WarpBarrier(place); }

inline void NamedBarrierSync(int id, uint32_t num_threads, Place place = Place::Here()) {
  cuda_emulator::BlockBarrier(id, num_threads, /*wait=*/true, place);
}

inline void NamedBarrierArrive(int id, uint32_t num_threads, Place place = Place::Here()) {
  cuda_emulator::BlockBarrier(id, num_threads, /*wait=*/false, place);
}

namespace detail {

template <typename T>
struct Shuffled {
  T in;
  T out;
  int from;
};

template <typename T>
T Shuffle(const char* op, T value, int from, Place place) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  Shuffled<T> operands{value, value, from};
  cuda_emulator::WarpCollective(
      op, &operands,
      [](void** lanes) {
        for (int i = 0; i < kWarpLanes; ++i) {
          auto* lane = static_cast<Shuffled<T>*>(lanes[i]);
          lane->out = static_cast<Shuffled<T>*>(lanes[lane->from])->in;
        }
      },
      place);
  return operands.out;
}

}  // namespace detail

template <typename T>
T ShuffleXor(T value, int lane_mask, Place place = Place::Here()) {
  return detail::Shuffle("ShuffleXor", value, (cuda_emulator::Current().lane ^ lane_mask) & 31,
                         place);
}

template <typename T>
T ShuffleFrom(T value, int lane, Place place = Place::Here()) {
  return detail::Shuffle("ShuffleFrom", value, lane & 31, place);
}

template <typename T>
T ShuffleUp(T value, int delta, Place place = Place::Here()) {
  const int lane = cuda_emulator::Current().lane;
  return detail::Shuffle("ShuffleUp", value, lane < delta ? lane : lane - delta, place);
}

inline uint32_t Ballot(bool vote, Place place = Place::Here()) {
  struct Operands {
    bool vote;
    uint32_t votes;
  } operands{vote, 0};

  cuda_emulator::WarpCollective(
      "Ballot", &operands,
      [](void** lanes) {
        uint32_t votes = 0;
        for (int i = 0; i < kWarpLanes; ++i) {
          votes |= (static_cast<Operands*>(lanes[i])->vote ? 1U : 0U) << i;
        }
        for (int i = 0; i < kWarpLanes; ++i) static_cast<Operands*>(lanes[i])->votes = votes;
      },
      place);
  return operands.votes;
}

inline int CountBits(uint32_t bits) { return std::popcount(bits); }

// --- Memory between blocks --------------------------------------------------------------------

inline void ThreadFence() {}

template <typename T>
T AtomicAdd(T* address, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*address).fetch_add(value);
}

template <typename T>
T AtomicMax(T* address, std::type_identity_t<T> value) {
  std::atomic_ref<T> atomic(*address);
  T before = atomic.load();
  while (before < value && !atomic.compare_exchange_weak(before, value)) {
  }
  return before;
}

inline uint32_t LoadAcquire(const uint32_t* address) {
  cuda_emulator::Yield();
  return std::atomic_ref<uint32_t>(*const_cast<uint32_t*>(address)).load();
}

inline void StoreRelease(uint32_t* address, uint32_t value) {
  std::atomic_ref<uint32_t>(*address).store(value);
}

inline uint4 LoadStreaming16(const void* address, Place place = Place::Here()) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) Fail(place, "LoadStreaming16: misaligned");
  return *static_cast<const uint4*>(address);
}

// --- Asynchronous copies to shared memory -----------------------------------------------------

inline void CpAsync16(void* shared,
                      const void* global,
                      bool valid = true,
                      Place place = Place::Here()) {
  using Copies = cuda_emulator::Options::Copies;
  if (cuda_emulator::SharedOffset(shared, 16, place) % 16 != 0) {
    Fail(place, "CpAsync16: shared address is misaligned");
  }
  if (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    Fail(place, "CpAsync16: global address is misaligned");
  }
  const cuda_emulator::AsyncCopies::Copy copy{.to = static_cast<std::byte*>(shared),
                                              .from = static_cast<const std::byte*>(global),
                                              .bytes = 16,
                                              .valid = valid};
  const Copies when = cuda_emulator::options().copies;
  if (when == Copies::kEager || (when == Copies::kMixed && cuda_emulator::Random() % 2 == 0)) {
    copy.Land();
    return;
  }
  // Undefined until it has landed. The first and last bytes are read now, so that a bad address is
  // blamed on this line.
  std::memset(shared, 0xff, 16);
  if (valid) {
    volatile std::byte probe = copy.from[0];  // NOLINT(clang-analyzer-deadcode.DeadStores)
    probe = copy.from[15];
    static_cast<void>(probe);
  }
  cuda_emulator::CurrentCopies().copies.push_back(copy);
}

inline void CpAsyncCommit() { cuda_emulator::CurrentCopies().Commit(); }

template <int kGroups>
void CpAsyncWait() {
  cuda_emulator::CurrentCopies().Wait(kGroups);
}

void MBarrierInit(uint64_t* barrier, uint32_t num_arrivals);

inline void MBarrierInitFence() {}

void MBarrierArriveAfterCopies(uint64_t* barrier, Place place = Place::Here());
void MBarrierArrive(uint64_t* barrier, Place place = Place::Here());
void MBarrierArriveExpect(uint64_t* barrier, uint32_t bytes, Place place = Place::Here());
void MBarrierWait(uint64_t* barrier, uint32_t parity, Place place = Place::Here());
void BulkCopyToShared(void* shared,
                      const void* global,
                      uint32_t bytes,
                      uint64_t* barrier,
                      Place place = Place::Here());

// Only that a product of warpgroups does not come without one is checked.
inline void FenceProxyAsync() { cuda_emulator::CurrentProducts().proxy_fenced = true; }

// --- Matrix fragments -------------------------------------------------------------------------

namespace detail {

struct MatrixRows {
  uint32_t row[4];  // The 16 bytes that this lane's address names.
  uint32_t out[4];
};

// kMatrices of 8x8, lanes of matrix m name its rows as lanes 8m to 8m + 7.
template <int kMatrices, bool kTransposed>
void LdMatrix(uint32_t* r, const void* row, Place place) {
  MatrixRows operands{};
  if (cuda_emulator::Current().lane < kMatrices * 8) {
    if (cuda_emulator::SharedOffset(row, 16, place) % 16 != 0) {
      Fail(place, "LdMatrix: row address is misaligned");
    }
    // Read here, by the lane itself, so that a sanitizer blames this lane and line.
    const auto* words = static_cast<const uint32_t*>(row);
    for (int i = 0; i < 4; ++i) operands.row[i] = words[i];
  }
  cuda_emulator::WarpCollective(
      kTransposed ? "LdMatrixTrans" : "LdMatrix", &operands,
      [](void** lanes) {
        const auto element = [&](int matrix, int at, int c) {
          const auto* lane = static_cast<MatrixRows*>(lanes[matrix * 8 + at]);
          return lane->row[c / 2] >> (c % 2 * 16) & 0xffff;
        };
        for (int i = 0; i < kWarpLanes; ++i) {
          auto* lane = static_cast<MatrixRows*>(lanes[i]);
          for (int m = 0; m < kMatrices; ++m) {
            const int a = i / 4;
            const int b = i % 4 * 2;
            lane->out[m] = kTransposed ? element(m, b, a) | element(m, b + 1, a) << 16
                                       : element(m, a, b) | element(m, a, b + 1) << 16;
          }
        }
      },
      place);
  for (int m = 0; m < kMatrices; ++m) r[m] = operands.out[m];
}

}  // namespace detail

inline void LdMatrixX4(uint32_t (&r)[4], const void* row, Place place = Place::Here()) {
  detail::LdMatrix<4, false>(r, row, place);
}

inline void LdMatrixX4Trans(uint32_t (&r)[4], const void* row, Place place = Place::Here()) {
  detail::LdMatrix<4, true>(r, row, place);
}

inline void LdMatrixX2(uint32_t (&r)[2], const void* row, Place place = Place::Here()) {
  detail::LdMatrix<2, false>(r, row, place);
}

void MmaBf16(float (&d)[4],
             const uint32_t (&a)[4],
             const uint32_t (&b)[2],
             Place place = Place::Here());

// --- Products of warpgroups -------------------------------------------------------------------

namespace detail {

// Puts the product under way: d is undefined until it has run. When it runs is a matter of
// Options::copies, as for copies: at its wait, with what its operands hold then, or at once.
void BeginProduct(cuda_emulator::WarpgroupProducts::Product product);

void WaitForProducts(int num_groups_left, Place place);

}  // namespace detail

inline void WgmmaFence() { cuda_emulator::CurrentProducts().fenced = true; }

void WgmmaCommit();

template <int kGroups>
void WgmmaWait(Place place = Place::Here()) {
  detail::WaitForProducts(kGroups, place);
}

template <int kCount>
void WgmmaResult(float (&d)[kCount], Place place = Place::Here()) {
  if (cuda_emulator::CurrentProducts().IsWriting(d)) {
    Fail(place, "WgmmaResult: no WgmmaWait for a product that writes here");
  }
}

template <int kColumns>
void WgmmaBf16(
    float (&d)[kColumns / 2], uint64_t a, uint64_t b, bool add, Place place = Place::Here()) {
  detail::BeginProduct({.d = d,
                        .columns = kColumns,
                        .a = nullptr,
                        .matrix_a = a,
                        .b = b,
                        .b_is_mn_major = false,
                        .add = add,
                        .before = {},
                        .place = place});
}

inline void WgmmaBf16(float (&d)[64],
                      const uint32_t (&a)[4],
                      uint64_t b,
                      Place place = Place::Here()) {
  detail::BeginProduct({.d = d,
                        .columns = 128,
                        .a = a,
                        .matrix_a = 0,
                        .b = b,
                        .b_is_mn_major = true,
                        .add = true,
                        .before = {},
                        .place = place});
}

template <int kRegisters>
void GiveRegisters() {}

template <int kRegisters>
void TakeRegisters() {}

inline uint32_t PackBf16(float low, float high) {
  return ToBf16(low) | static_cast<uint32_t>(ToBf16(high)) << 16;
}

inline float Exp2(float x) { return std::exp2(x); }

// --- Programmatic dependent launch ------------------------------------------------------------

// Launches run one after another: only that nobody forgets it is checked.
inline void GridDependencyWait() { cuda_emulator::WaitForPredecessor(); }

inline void GridDependencyLaunch() {}

// --- Launch -----------------------------------------------------------------------------------

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t smem_bytes = 0;
  cudaStream_t stream = nullptr;
  bool overlap_previous = true;
};

template <typename... Params, typename... Args>
cudaError_t Launch(const LaunchShape& shape, void (*kernel)(Params...), Args&&... args) {
  if (!cuda_emulator::IsOfThisDevice(shape.stream)) return cudaErrorInvalidResourceHandle;
  const cuda_emulator::GridShape grid{.grid = shape.grid,
                                      .block = shape.block,
                                      .smem_bytes = shape.smem_bytes,
                                      .must_wait = shape.overlap_previous};
  std::tuple<Params...> all(static_cast<Params>(args)...);
  cuda_emulator::Description description;
  if (cuda_emulator::IsCapturing(shape.stream)) {
    cuda_emulator::Describe(kernel, description);
    cuda_emulator::Describe(grid, description);
    std::apply([&](const auto&... arg) { (cuda_emulator::Describe(arg, description), ...); }, all);
  }
  cuda_emulator::Enqueue(
      shape.stream,
      [grid, kernel, all] { cuda_emulator::RunGrid(grid, [&] { std::apply(kernel, all); }); },
      std::move(description));
  return cudaSuccess;
}

}  // namespace facet::kernels::ptx
