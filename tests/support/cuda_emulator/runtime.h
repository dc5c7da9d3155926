// What device.h needs of the runtime: work is put into a stream and runs, in order, when somebody
// waits for it, so that a host that reads too early or reuses memory too early gets wrong answers.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

namespace facet::cuda_emulator {

// What a piece of work is: its kind and all its arguments, byte by byte.
using Description = std::vector<std::byte>;

// Appends the bytes of value, those that belong to no member as zeros.
template <typename T>
void Describe(const T& value, Description& description) {
  static_assert(std::is_trivially_copyable_v<T>);
  T copy = value;
#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
  __builtin_clear_padding(&copy);
#endif
#endif
  const auto* bytes = reinterpret_cast<const std::byte*>(&copy);
  description.insert(description.end(), bytes, bytes + sizeof(T));
}

// The description is kept in graphs; outside a capture it may be empty.
void Enqueue(cudaStream_t stream, std::function<void()> work, Description description = {});

// Whether the calling thread may launch kernels there.
bool IsOfThisDevice(cudaStream_t stream);

bool IsCapturing(cudaStream_t stream);

// Where the work of a recorded graph and that of another differ; empty if nowhere.
std::string FirstDifference(cudaGraphExec_t recorded, cudaGraph_t other);

// Pieces of work run so far, and how many of them because this thread waited.
struct WorkDone {
  int64_t all = 0;
  int64_t by_this_thread = 0;
};

WorkDone CountWorkDone();

}  // namespace facet::cuda_emulator
