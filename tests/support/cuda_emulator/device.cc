#include "tests/support/cuda_emulator/device.h"

#include <bit>
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

struct BulkCopy {
  std::byte* to;
  const std::byte* from;
  uint32_t bytes;
  uint64_t* barrier;
};

// On their way, oldest first. A block's copies have landed when it ends, or it waits forever.
std::vector<BulkCopy>& BulkCopies() {
  static std::vector<BulkCopy> copies;
  return copies;
}

bool LandOneBulkCopy() {
  if (BulkCopies().empty()) return false;
  const BulkCopy copy = BulkCopies().front();
  BulkCopies().erase(BulkCopies().begin());
  std::memcpy(copy.to, copy.from, copy.bytes);
  MBarrier state = Load(copy.barrier, Place());
  state.bytes_missing -= static_cast<int32_t>(copy.bytes);
  Store(copy.barrier, state);
  return true;
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

}  // namespace

void MBarrierInit(uint64_t* barrier, uint32_t num_arrivals) {
  const cuda_emulator::Quiet quiet;
  cuda_emulator::SetIdleHook(LandOneBulkCopy);
  const auto wanted = static_cast<uint16_t>(num_arrivals);
  *barrier = std::bit_cast<uint64_t>(MBarrier{
      .arrivals_missing = wanted, .arrivals_wanted = static_cast<uint16_t>(wanted & 0x7fff)});
}

void MBarrierArrive(uint64_t* barrier, Place place) { Arrive(barrier, 0, place); }

void MBarrierArriveExpect(uint64_t* barrier, uint32_t bytes, Place place) {
  const cuda_emulator::Quiet quiet;
  // Negative: what has landed. Below compute capability 9.0 nobody else would wait for the copies.
  int64_t missing = Load(barrier, place).bytes_missing + int64_t{bytes};
  for (const BulkCopy& copy : BulkCopies()) missing -= copy.barrier == barrier ? copy.bytes : 0;
  if (missing > 0) Fail(place, "MBarrierArriveExpect comes before its bulk copies");
  Arrive(barrier, bytes, place);
}

void MBarrierWait(uint64_t* barrier, uint32_t parity, Place place) {
  const cuda_emulator::Quiet quiet;
  while (Load(barrier, place).phase == (parity & 1)) {
    cuda_emulator::WaitFor(barrier, "MBarrierWait", place);
  }
}

void BulkCopyToShared(
    void* shared, const void* global, uint32_t bytes, uint64_t* barrier, Place place) {
  using Copies = cuda_emulator::Options::Copies;
  const cuda_emulator::Quiet quiet;
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0 ||
      cuda_emulator::SharedOffset(shared, bytes, place) % 16 != 0) {
    Fail(place, "BulkCopyToShared: addresses and size are multiples of 16");
  }
  std::memset(shared, 0xff, bytes);
  BulkCopies().push_back({.to = static_cast<std::byte*>(shared),
                          .from = static_cast<const std::byte*>(global),
                          .bytes = bytes,
                          .barrier = barrier});
  const Copies when = cuda_emulator::options().copies;
  if (when == Copies::kEager || (when == Copies::kMixed && cuda_emulator::Random() % 2 == 0)) {
    while (LandOneBulkCopy()) {
    }
  }
}

void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place) {
  MmaOperands operands{d, a, b};
  cuda_emulator::WarpCollective("MmaBf16", &operands, ComputeMma, place);
}

}  // namespace facet::kernels::ptx
