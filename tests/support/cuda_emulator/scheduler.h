// Executes a grid: one fiber per CUDA thread, blocks one after another.
//
// Life of a thread: ready → running → (parked at a collective or barrier → ready)* → exited. The
// running fiber that parks picks the next one itself, so that a switch costs some 15 ns and there
// is no scheduler thread. The last thread to arrive at a collective computes it for all.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace facet::cuda_emulator {

inline constexpr int kErrorStatus = 86;
inline constexpr int kWarpLanes = 32;

// A line of a kernel. As a default argument, Place place = Place::Here() is the caller's line.
struct Place {
  const char* file = "";
  int line = 0;

  static constexpr Place Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

struct Options {
  // Which ready warp and lane goes next, and which block.
  enum class Order { kForward, kReverse, kRandom };
  // When an asynchronous copy lands: at its wait, at once, or by coin.
  enum class Copies { kLazy, kEager, kMixed };

  Order order = Order::kForward;
  Copies copies = Copies::kLazy;
  uint64_t seed = 1;
  // What a block may have.
  size_t smem_bytes = size_t{227} * 1024;
};

// Read from FACET_EMULATOR at the first call; tests may change it between launches.
Options& options();

// "order=random,copies=mixed,seed=9,smem_kib=163"; ends the process at an unknown word.
Options ParseOptions(const char* text);

// Prints "cuda emulator: FILE:LINE: message [block, thread]" and where all threads stand, then
// ends the process.
[[noreturn]] void Fail(Place place, const char* format, ...) __attribute__((format(printf, 2, 3)));

struct GridShape {
  dim3 grid;
  dim3 block;
  size_t smem_bytes = 0;
  // The launch may begin before the one before has ended: each thread has to wait for that.
  bool must_wait = false;
};

// Runs body once for every thread of the grid.
void RunGrid(const GridShape& shape, const std::function<void()>& body);

// --- Called by a running thread ---------------------------------------------------------------

struct ThreadIndices {
  uint3 thread;
  uint3 block;
  dim3 block_size;
  dim3 grid_size;
  int lane = 0;
  int warp = 0;
};

const ThreadIndices& Current();

// Lanes of a warp meet; compute runs once, on the operands of all 32.
void WarpCollective(const char* op, void* operands, void (*compute)(void** lanes), Place place);

// The same without operands; orders memory among the lanes.
void WarpBarrier(Place place);

// All threads of the block that have not exited meet (id 0), or num_threads of them (id 1 to 15).
void BlockBarrier(int id, uint32_t num_threads, bool wait, Place place);

// Gives other threads of the block a turn.
void Yield();

// This thread waits for the launches before this one.
void WaitForPredecessor();

// Draws from the launch's own generator.
uint32_t Random();

// Parks until WakeWaiters(key).
void WaitFor(const void* key, const char* what, Place place);
void WakeWaiters(const void* key);

// Runs when no thread of the block can: lets something land and says whether it did. And when all
// have ended.
void SetIdleHook(bool (*hook)(bool block_ended));

// The block's shared memory, filled with NaN: pieces by key (static) or by offset (dynamic), each
// made at the first call, with gaps between them that AddressSanitizer knows.
std::byte* StaticPiece(const void* key, size_t bytes, size_t align);
std::byte* DynamicPiece(size_t logical_offset, size_t bytes, size_t align, Place place);

// The address as the hardware's window numbers it; fails outside the block's shared memory.
uint32_t SharedOffset(const void* address, size_t bytes, Place place);
std::byte* SharedAt(uint32_t offset);

// This thread's asynchronous copies, for device.h.
struct AsyncCopies;
AsyncCopies& CurrentCopies();

// The emulator's own reads and writes are not the kernel's (ThreadSanitizer).
class Quiet {
 public:
  Quiet();
  ~Quiet();
};

}  // namespace facet::cuda_emulator
