// Reads tensors of a Hugging Face directory: one model.safetensors, or shards named by
// model.safetensors.index.json. Files are mapped, never copied; headers are checked whole before
// any tensor is handed out. No pickle, no code. Format: safetensors 0.4 (8 bytes little-endian
// header length, JSON header, data).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/tensor_view.h"

namespace facet::worker {

struct StoredTensor {
  std::string dtype;  // As stored: "BF16", "F32", "I32", …
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t bytes = 0;

  int64_t num_elements() const;

  std::string ShapeText() const;  // "[512, 96]"
};

// Where a file lies in memory.
struct MappedFile {
  std::string path;
  const std::byte* data = nullptr;
  int64_t bytes = 0;
};

// One mapped file. Views stay valid while it lives.
class SafetensorsFile {
 public:
  static StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();

  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }

  const MappedFile& mapped() const { return mapped_; }

  // Null if the file has no such tensor.
  const StoredTensor* Find(std::string_view name) const;

 private:
  SafetensorsFile() = default;
  Status ReadHeader();

  MappedFile mapped_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

// All tensors of a directory.
class Checkpoint {
 public:
  // NOT_FOUND: no weights. INVALID_ARGUMENT: a file is damaged or the index does not fit the
  // shards.
  static StatusOr<Checkpoint> Open(const std::string& directory);

  // Tensors in memory that owner keeps alive: for benchmarks without files.
  static Checkpoint FromMemory(std::map<std::string, StoredTensor, std::less<>> tensors,
                               std::shared_ptr<const void> owner);

  const StoredTensor* Find(std::string_view name) const;

  const std::map<std::string, const StoredTensor*, std::less<>>& tensors() const {
    return tensors_;
  }

  // Those that hold the tensors; none for tensors in memory.
  std::vector<MappedFile> files() const;

  // SHA-256 over names, dtypes and shapes, hex: equal for equal layouts, cheap for any size.
  std::string LayoutDigest() const;

 private:
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::shared_ptr<const void> memory_;
  std::shared_ptr<const std::map<std::string, StoredTensor, std::less<>>> memory_tensors_;
  std::map<std::string, const StoredTensor*, std::less<>> tensors_;
};

}  // namespace facet::worker
