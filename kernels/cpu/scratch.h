// Memory that an op needs while it runs: one growing piece per thread, and one shared by the op.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace facet::kernels {

class ThreadScratch {
 public:
  explicit ThreadScratch(int num_threads) : pieces_(num_threads) {}

  // At least size floats for this thread, valid until its next call.
  float* Floats(int thread, int64_t size) {
    std::vector<float>& piece = pieces_[thread].floats;
    if (static_cast<int64_t>(piece.size()) < size) piece.resize(size);
    return piece.data();
  }

 private:
  struct alignas(64) Piece {
    std::vector<float> floats;
  };

  std::vector<Piece> pieces_;
};

// At least bytes of memory for the op in progress, aligned for any element.
class OpScratch {
 public:
  template <typename T>
  T* As(int64_t size) {
    const auto words = static_cast<size_t>((size * static_cast<int64_t>(sizeof(T)) + 63) / 64);
    if (lines_.size() < words) lines_.resize(words);
    return reinterpret_cast<T*>(lines_.data());
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };

  std::vector<Line> lines_;
};

}  // namespace facet::kernels
