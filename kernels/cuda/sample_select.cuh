// How a block of threads finds the largest of many scores.
//
// Scores are compared as keys of 64 bits: the score's bits in the order of floats above the
// complement of the id, so that the largest key is the largest score with the lowest id, and no
// two are equal. A logit that is not finite has a key above all scores and is so found by whoever
// looks for the largest.
//
// Keys come from a source with a method ForEachOfThread(visit), which calls visit(key) for each key
// of the calling thread, the same ones each time; the threads of a block share all keys between
// them. 0 stands for no key. Select reads a source twice: once for the largest key of each thread,
// which gives a bound, and once to collect what is not below it.
#pragma once

#include <cstdint>

#include "kernels/approx.h"
#include "kernels/cuda/ptx.cuh"

namespace facet::kernels::sampling {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kChoicesMax = kThreads;
constexpr int kSelectMax = 64;  // Keys of one SelectLargest.
constexpr int kDigits = 256;

// Shared memory of a block.
struct BlockMemory {
  uint64_t* warp_keys;  // [kWarps]
  uint64_t* choices;    // [kChoicesMax], what was selected
  int* histogram;       // [kDigits]
  double* sums;         // [kChoicesMax]

  FACET_DEVICE static BlockMemory Take() {
    ptx::SmemArena arena;
    BlockMemory memory;
    memory.warp_keys = arena.Take<uint64_t>(kWarps);
    memory.choices = arena.Take<uint64_t>(kChoicesMax);
    memory.histogram = arena.Take<int>(kDigits);
    memory.sums = arena.Take<double>(kChoicesMax);
    return memory;
  }

  static constexpr size_t kBytes = (kWarps + kChoicesMax) * sizeof(uint64_t) +
                                   kDigits * sizeof(int) + kChoicesMax * sizeof(double);
};

// --- Keys ---------------------------------------------------------------------------------------

using Key = uint64_t;

constexpr uint32_t kNotFinite = 0xffffffffU;  // In place of the ordered score.

FACET_DEVICE Key MakeKey(uint32_t ordered, int id) {
  return static_cast<Key>(ordered) << 32 | (0xffffffffU - static_cast<uint32_t>(id));
}

// Adding zero turns -0 into 0: they are equal scores.
FACET_DEVICE Key KeyOf(float score, int id) {
  const uint32_t bits = BitsOfFloat(score + 0.0F);
  return MakeKey((bits >> 31) != 0 ? ~bits : bits | 0x80000000U, id);
}

FACET_DEVICE int IdOf(Key key) {
  return static_cast<int>(0xffffffffU - static_cast<uint32_t>(key));
}

FACET_DEVICE float ScoreOf(Key key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return FloatOfBits((ordered >> 31) != 0 ? ordered & 0x7fffffffU : ~ordered);
}

FACET_DEVICE bool IsFinite(float logit) {
  return (BitsOfFloat(logit) & 0x7f800000U) != 0x7f800000U;
}

FACET_DEVICE bool IsFinite(Key key) { return key >> 32 != kNotFinite; }

// --- Selection ----------------------------------------------------------------------------------

FACET_DEVICE int Thread() { return static_cast<int>(threadIdx.x); }

// The largest key of this thread.
template <typename Source>
FACET_DEVICE Key ThreadMax(const Source& source) {
  Key largest = 0;
  source.ForEachOfThread([&](Key key) { largest = key > largest ? key : largest; });
  return largest;
}

// The largest of all threads' keys, on all of them.
FACET_DEVICE Key BlockMax(Key key, const BlockMemory& memory) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const Key other = ptx::ShuffleXor(key, mask);
    if (other > key) key = other;
  }
  ptx::SyncThreads();  // Nobody still reads the keys of the call before.
  if (Thread() % 32 == 0) memory.warp_keys[Thread() / 32] = key;
  ptx::SyncThreads();
  Key largest = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    largest = memory.warp_keys[w] > largest ? memory.warp_keys[w] : largest;
  }
  return largest;
}

// How many of the keys, in shared memory, are above this one.
FACET_DEVICE int RankOf(Key key, const Key* keys, int num_keys) {
  int rank = 0;
#pragma unroll 8
  for (int i = 0; i < num_keys; ++i) rank += keys[i] > key ? 1 : 0;
  return rank;
}

// Puts the first choices in falling order; each thread finds the place of one.
FACET_DEVICE void SortChoices(int num_choices, const BlockMemory& memory) {
  const Key key = Thread() < num_choices ? memory.choices[Thread()] : 0;
  const int rank = key > 0 ? RankOf(key, memory.choices, num_choices) : 0;
  ptx::SyncThreads();
  if (key > 0) memory.choices[rank] = key;
  ptx::SyncThreads();
}

// The smallest key among the top_k largest, digit by digit: a histogram of the keys that begin as
// it does tells the next eight bits. 0 if there are no more than top_k keys.
template <typename Source>
FACET_DEVICE Key KthKey(const Source& source, int top_k, const BlockMemory& memory) {
  FACET_SHARED(shared_prefix, Key);
  FACET_SHARED(missing, int);
  FACET_SHARED(decided, bool);
  const int thread = Thread();
  int* histogram = memory.histogram;
  if (thread == 0) {
    shared_prefix = 0;
    missing = top_k;
    decided = false;
  }
  Key prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (thread < kDigits) histogram[thread] = 0;
    ptx::SyncThreads();
    source.ForEachOfThread([&](Key key) {
      if (shift == 56 || key >> (shift + 8) == prefix) {
        ptx::AtomicAdd(&histogram[key >> shift & 255], 1);
      }
    });
    ptx::SyncThreads();
    if (thread == 0) {
      int digit = 255;
      while (digit > 0 && histogram[digit] < missing) missing -= histogram[digit--];
      // The digit holds exactly what is missing, or less than that: then all keys are kept.
      decided = histogram[digit] <= missing;
      shared_prefix = shared_prefix << 8 | static_cast<Key>(digit);
    }
    ptx::SyncThreads();
    prefix = shared_prefix;
    if (decided) return prefix << shift;
  }
  return prefix;
}

// The keys from least on into the choices, in no order; how many there are, of which no more than
// kChoicesMax were kept.
template <typename Source>
FACET_DEVICE int Collect(const Source& source, Key least, const BlockMemory& memory) {
  FACET_SHARED(num_found, int);
  ptx::SyncThreads();  // Nobody still reads the choices, or the number of the call before.
  if (Thread() == 0) num_found = 0;
  ptx::SyncThreads();
  source.ForEachOfThread([&](Key key) {
    if (key < least) return;
    const int place = ptx::AtomicAdd(&num_found, 1);
    if (place < kChoicesMax) memory.choices[place] = key;
  });
  ptx::SyncThreads();
  return num_found;
}

// A key that at least count keys are not below, which are the largest ones of count groups of
// threads; 1 if fewer groups have keys.
template <typename Source>
FACET_DEVICE Key BoundOf(const Source& source, int count, const BlockMemory& memory) {
  constexpr int kGroups = 2 * kSelectMax;
  FACET_SHARED(bound, Key);
  const int thread = Thread();
  Key largest = ThreadMax(source);
  ptx::SyncThreads();  // Nobody still reads the choices.
  memory.choices[thread] = largest;
  if (thread == 0) bound = 1;
  ptx::SyncThreads();
  if (thread < kGroups) {
    for (int i = thread + kGroups; i < kThreads; i += kGroups) {
      largest = memory.choices[i] > largest ? memory.choices[i] : largest;
    }
    memory.choices[thread] = largest;
  }
  ptx::SyncThreads();
  if (thread < kGroups && largest > 0 && RankOf(largest, memory.choices, kGroups) == count - 1) {
    bound = largest;
  }
  ptx::SyncThreads();
  return bound;
}

// The count largest keys, or all if there are fewer, into the choices, falling; how many they are.
// count is 1 to kSelectMax. With keys in no order the bound lets some 3 / 2 count keys pass. Where
// it lets more pass than there is room for, histograms find the exact one.
template <typename Source>
FACET_DEVICE int SelectLargest(const Source& source, int count, const BlockMemory& memory) {
  int num_found = Collect(source, BoundOf(source, count, memory), memory);
  if (num_found > kChoicesMax) {
    num_found = Collect(source, KthKey(source, count, memory), memory);
  }
  SortChoices(num_found, memory);
  return num_found < count ? num_found : count;
}

}  // namespace facet::kernels::sampling
