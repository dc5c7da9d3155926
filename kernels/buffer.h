// Device memory with one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

namespace facet::kernels {

// Frees its memory when destroyed. The backend that made it must outlive it.
class Buffer {
 public:
  using Deleter = std::function<void(void*)>;

  Buffer() = default;

  Buffer(void* data, int64_t bytes, Deleter deleter)
      : data_(data), bytes_(bytes), deleter_(std::move(deleter)) {}

  Buffer(Buffer&& other) noexcept { *this = std::move(other); }

  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(deleter_, other.deleter_);
    return *this;
  }

  ~Buffer() {
    if (data_ != nullptr) deleter_(data_);
  }

  void* data() const { return data_; }

  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Deleter deleter_;
};

}  // namespace facet::kernels
