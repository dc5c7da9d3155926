#include "tests/support/cuda_emulator/device.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <utility>
#include <vector>

namespace facet::kernels::ptx {
namespace {

// The eight bytes of an mbarrier: pending arrivals and bytes of the phase under way.
struct MBarrier {
  int32_t bytes_missing = 0;
  uint16_t arrivals_missing = 0;
  uint16_t arrivals_wanted : 15 = 0;
  uint16_t phase : 1 = 0;
};

static_assert(sizeof(MBarrier) == 8);

MBarrier Load(const uint64_t* barrier, Place place) {
  cuda_emulator::SharedOffset(barrier, sizeof(MBarrier), place);
  if (*barrier == ~uint64_t{0}) Fail(place, "the mbarrier is not initialised");
  return std::bit_cast<MBarrier>(*barrier);
}

void Store(uint64_t* barrier, MBarrier state) {
  if (state.arrivals_missing == 0 && state.bytes_missing == 0) {
    state.phase ^= 1;
    state.arrivals_missing = state.arrivals_wanted;
    cuda_emulator::WakeWaiters(barrier);
  }
  *barrier = std::bit_cast<uint64_t>(state);
}

// Copies that a barrier is told of when they have landed.
struct Landing {
  std::vector<cuda_emulator::AsyncCopies::Copy> copies;
  uint32_t bytes;    // That the barrier waits for.
  int32_t arrivals;  // That it also counts.
  uint64_t* barrier;
  Place place;
};

// On their way, oldest first, until a block ends.
std::vector<Landing>& Landings() {
  static std::vector<Landing> landings;
  return landings;
}

bool LandOne(bool block_ended) {
  if (Landings().empty()) return false;
  if (block_ended)
    Fail(Landings().front().place, "a block ends and nobody has waited for this copy");
  const Landing landing = Landings().front();
  Landings().erase(Landings().begin());
  for (const auto& copy : landing.copies) copy.Land();
  MBarrier state = Load(landing.barrier, Place());
  state.bytes_missing -= static_cast<int32_t>(landing.bytes);
  state.arrivals_missing = static_cast<uint16_t>(state.arrivals_missing - landing.arrivals);
  Store(landing.barrier, state);
  return true;
}

// Some time from now, or at once.
void LandLater(Landing landing) {
  using Copies = cuda_emulator::Options::Copies;
  Landings().push_back(std::move(landing));
  const Copies when = cuda_emulator::options().copies;
  if (when == Copies::kEager || (when == Copies::kMixed && cuda_emulator::Random() % 2 == 0)) {
    while (LandOne(/*block_ended=*/false)) {
    }
  }
}

void Arrive(uint64_t* barrier, uint32_t bytes, Place place) {
  const cuda_emulator::Quiet quiet;
  MBarrier state = Load(barrier, place);
  if (state.arrivals_missing == 0) Fail(place, "more arrivals than the mbarrier expects");
  state.bytes_missing += static_cast<int32_t>(bytes);
  --state.arrivals_missing;
  Store(barrier, state);
}

struct MmaOperands {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

float Low(uint32_t pair) { return FloatOfBits(pair << 16); }

float High(uint32_t pair) { return FloatOfBits(pair & 0xffff0000U); }

void ComputeMma(void** lanes) {
  float a[16][16];
  float b[16][8];
  float d[16][8];
  for (int i = 0; i < kWarpLanes; ++i) {
    const auto& lane = *static_cast<MmaOperands*>(lanes[i]);
    const int g = i / 4;
    const int t = i % 4 * 2;
    for (int r = 0; r < 4; ++r) {
      float* pair = &a[g + r % 2 * 8][t + r / 2 * 8];
      pair[0] = Low(lane.a[r]);
      pair[1] = High(lane.a[r]);
      d[g + r / 2 * 8][t + r % 2] = lane.d[r];
    }
    for (int r = 0; r < 2; ++r) {
      b[t + r * 8][g] = Low(lane.b[r]);
      b[t + r * 8 + 1][g] = High(lane.b[r]);
    }
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int i = 0; i < kWarpLanes; ++i) {
    const auto& lane = *static_cast<MmaOperands*>(lanes[i]);
    for (int r = 0; r < 4; ++r) lane.d[r] = d[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2];
  }
}

// --- Products of warpgroups ---------------------------------------------------------------------

using cuda_emulator::kWarpgroupThreads;
using cuda_emulator::WarpgroupProducts;

// An element of a swizzled matrix as ptx.cuh describes it: element of 64 or 128 of the dimension
// that is not k.
float ElementAt(uint64_t matrix, bool mn_major, uint32_t element, uint32_t k, Place place) {
  const auto field = [&](int bit) { return static_cast<uint32_t>(matrix >> bit & 0x3fff) * 16; };
  const uint32_t begin = field(0);
  const uint32_t next_piece = field(16);
  const uint32_t stride = field(32);
  constexpr uint64_t kSwizzle128 = 1;
  if (matrix >> 62 != kSwizzle128 || (matrix >> 49 & 7) != 0 || begin % 1024 >= 128) {
    Fail(place, "a matrix that is not swizzled by 128 bytes, or begins behind row 0 of a piece");
  }
  uint32_t at = begin;
  if (mn_major) {
    at += element / 64 * next_piece + element % 64 * 2 + k % 8 * 128 + k / 8 * stride;
  } else {
    at += element / 8 * stride + element % 8 * 128 + k * 2;
  }
  at ^= (at >> 7 & 7) << 4;
  const std::byte* address = cuda_emulator::SharedAt(at);
  cuda_emulator::SharedOffset(address, sizeof(Bf16), place);
  return ToFloat(*reinterpret_cast<const Bf16*>(address));
}

// Product i of each of the warpgroup's threads.
void RunProduct(WarpgroupProducts* const* threads, size_t i) {
  constexpr uint32_t kRows = 64;
  constexpr uint32_t kSteps = 16;
  constexpr uint32_t kColumnsMax = 128;
  const WarpgroupProducts::Product& first = threads[0]->products[i];
  const auto columns = static_cast<uint32_t>(first.columns);
  float a[kRows][kSteps];
  float b[kSteps][kColumnsMax];
  for (uint32_t n = 0; n < columns; ++n) {
    for (uint32_t k = 0; k < kSteps; ++k) {
      b[k][n] = ElementAt(first.b, first.b_is_mn_major, n, k, first.place);
    }
  }
  for (int t = 0; t < kWarpgroupThreads; ++t) {
    const WarpgroupProducts::Product& product = threads[t]->products[i];
    if (product.matrix_a != first.matrix_a || product.b != first.b || product.add != first.add ||
        product.columns != first.columns || (product.a == nullptr) != (first.a == nullptr)) {
      Fail(first.place, "WgmmaBf16: thread %d of the warpgroup has other operands", t);
    }
    if (product.a == nullptr) continue;
    const int row = t / 32 * 16 + t % 32 / 4;
    for (int r = 0; r < 4; ++r) {
      float* pair = &a[row + r % 2 * 8][t % 4 * 2 + r / 2 * 8];
      pair[0] = Low(product.a[r]);
      pair[1] = High(product.a[r]);
    }
  }
  for (uint32_t m = 0; m < kRows && first.a == nullptr; ++m) {
    for (uint32_t k = 0; k < kSteps; ++k) {
      a[m][k] = ElementAt(first.matrix_a, /*mn_major=*/false, m, k, first.place);
    }
  }
  for (uint32_t m = 0; m < kRows; ++m) {
    float sums[kColumnsMax] = {};
    for (uint32_t k = 0; k < kSteps; ++k) {
      for (uint32_t n = 0; n < columns; ++n) sums[n] += a[m][k] * b[k][n];
    }
    for (uint32_t n = 0; n < columns; ++n) {
      const uint32_t thread = m / 16 * 32 + m % 8 * 4 + n % 8 / 2;
      const uint32_t place = n / 8 * 4 + m % 16 / 8 * 2 + n % 2;
      const WarpgroupProducts::Product& product = threads[thread]->products[i];
      float& d = product.d[place];
      if (!product.before.empty()) d = product.before[place];
      d = product.add ? d + sums[n] : sums[n];
    }
  }
}

// The first num_products of each thread.
void RunProducts(WarpgroupProducts* const* threads, size_t num_products) {
  for (size_t i = 0; i < num_products; ++i) RunProduct(threads, i);
  for (int t = 0; t < kWarpgroupThreads; ++t) {
    WarpgroupProducts& thread = *threads[t];
    thread.products.erase(thread.products.begin(),
                          thread.products.begin() + static_cast<ptrdiff_t>(num_products));
    for (size_t& end : thread.group_ends) end -= std::min(end, num_products);
  }
}

struct WaitOperands {
  WarpgroupProducts* products;
  size_t num_groups_left;
};

void RunWaitedFor(void** operands) {
  WarpgroupProducts* threads[kWarpgroupThreads];
  for (int t = 0; t < kWarpgroupThreads; ++t) {
    threads[t] = static_cast<WaitOperands*>(operands[t])->products;
  }
  const size_t num_groups = threads[0]->group_ends.size();
  const size_t num_left = static_cast<WaitOperands*>(operands[0])->num_groups_left;
  if (num_groups <= num_left) return;
  RunProducts(threads, threads[0]->group_ends[num_groups - num_left - 1]);
  for (WarpgroupProducts* thread : threads) {
    thread->group_ends.erase(thread->group_ends.begin(),
                             thread->group_ends.end() - static_cast<ptrdiff_t>(num_left));
  }
}

void RunNowOrLater(void** operands) {
  if (cuda_emulator::options().copies == cuda_emulator::Options::Copies::kMixed &&
      cuda_emulator::Random() % 2 == 0) {
    return;
  }
  auto* const* threads = reinterpret_cast<WarpgroupProducts* const*>(operands);
  RunProducts(threads, threads[0]->products.size());
}

}  // namespace

namespace detail {

void BeginProduct(WarpgroupProducts::Product product) {
  const cuda_emulator::Quiet quiet;
  WarpgroupProducts& mine = cuda_emulator::CurrentProducts();
  if (!mine.proxy_fenced) {
    Fail(product.place, "WgmmaBf16 without FenceProxyAsync since the last wait for other threads");
  }
  if (!mine.fenced) Fail(product.place, "WgmmaBf16 without WgmmaFence since the last WgmmaWait");
  const Place place = product.place;
  if (!mine.IsWriting(product.d)) {
    product.before.assign(product.d, product.d + product.columns / 2);
    std::fill(product.d, product.d + product.columns / 2, FloatOfBits(0x7fffffff));
  }
  mine.products.push_back(std::move(product));
  if (cuda_emulator::options().copies == cuda_emulator::Options::Copies::kLazy) return;
  cuda_emulator::WarpgroupCollective("WgmmaBf16", &mine, RunNowOrLater, place);
}

void WaitForProducts(int num_groups_left, Place place) {
  WarpgroupProducts& mine = cuda_emulator::CurrentProducts();
  WaitOperands operands{.products = &mine, .num_groups_left = static_cast<size_t>(num_groups_left)};
  cuda_emulator::WarpgroupCollective("WgmmaWait", &operands, RunWaitedFor, place);
  mine.fenced = false;
}

}  // namespace detail

void WgmmaCommit() {
  WarpgroupProducts& mine = cuda_emulator::CurrentProducts();
  mine.group_ends.push_back(mine.products.size());
}

void MBarrierInit(uint64_t* barrier, uint32_t num_arrivals) {
  const cuda_emulator::Quiet quiet;
  cuda_emulator::SetIdleHook(LandOne);
  const auto wanted = static_cast<uint16_t>(num_arrivals);
  *barrier = std::bit_cast<uint64_t>(MBarrier{
      .arrivals_missing = wanted, .arrivals_wanted = static_cast<uint16_t>(wanted & 0x7fff)});
}

void MBarrierArrive(uint64_t* barrier, Place place) { Arrive(barrier, 0, place); }

void MBarrierArriveAfterCopies(uint64_t* barrier, Place place) {
  const cuda_emulator::Quiet quiet;
  if (Load(barrier, place).arrivals_missing == 0) {
    Fail(place, "more arrivals than the mbarrier expects");
  }
  LandLater({.copies = cuda_emulator::CurrentCopies().Take(),
             .bytes = 0,
             .arrivals = 1,
             .barrier = barrier,
             .place = place});
}

void MBarrierArriveExpect(uint64_t* barrier, uint32_t bytes, Place place) {
  const cuda_emulator::Quiet quiet;
  // Negative: what has landed. Below compute capability 9.0 nobody else would wait for the copies.
  int64_t missing = Load(barrier, place).bytes_missing + int64_t{bytes};
  for (const Landing& landing : Landings()) {
    missing -= landing.barrier == barrier ? landing.bytes : 0;
  }
  if (missing > 0) Fail(place, "MBarrierArriveExpect comes before its bulk copies");
  Arrive(barrier, bytes, place);
}

void MBarrierWait(uint64_t* barrier, uint32_t parity, Place place) {
  const cuda_emulator::Quiet quiet;
  while (Load(barrier, place).phase == (parity & 1)) {
    cuda_emulator::WaitFor(barrier, "MBarrierWait", place);
  }
  cuda_emulator::CurrentProducts().proxy_fenced = false;
}

void BulkCopyToShared(
    void* shared, const void* global, uint32_t bytes, uint64_t* barrier, Place place) {
  const cuda_emulator::Quiet quiet;
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0 ||
      cuda_emulator::SharedOffset(shared, bytes, place) % 16 != 0) {
    Fail(place, "BulkCopyToShared: addresses and size are multiples of 16");
  }
  std::memset(shared, 0xff, bytes);
  LandLater({.copies = {{.to = static_cast<std::byte*>(shared),
                         .from = static_cast<const std::byte*>(global),
                         .bytes = bytes,
                         .valid = true}},
             .bytes = bytes,
             .arrivals = 0,
             .barrier = barrier,
             .place = place});
}

void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place) {
  MmaOperands operands{d, a, b};
  cuda_emulator::WarpCollective("MmaBf16", &operands, ComputeMma, place);
}

}  // namespace facet::kernels::ptx
