// Fetches weights for a device from their files, past the page faults of a mapping: several threads
// take what the page cache holds (preadv2 with RWF_NOWAIT) and read the rest past it (O_DIRECT): a
// cold start waits for the drive, not for page faults, a warm one for memory, and loading a model
// leaves the page cache as it was.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "kernels/cpu/thread_pool.h"
#include "worker/model/safetensors.h"

namespace facet::worker {

class DirectReader {
 public:
  // Reads the checkpoint's files, which must live as long. A file that cannot be opened for direct
  // reads (tmpfs) is read through the page cache. num_threads ≥ 1.
  DirectReader(const Checkpoint& checkpoint, int num_threads);
  ~DirectReader();

  // Copies bytes from where a view of the checkpoint's tensors points. One call at a time. What
  // lies in none of its files (tensors made in memory) is copied as memory.
  void Read(void* to, const void* from, int64_t bytes);

  // The first error of any Read: the file, the place and the system's words.
  Status status() const;

  int64_t bytes_from_cache() const { return bytes_from_cache_; }

  int64_t bytes_direct() const { return bytes_direct_; }

 private:
  struct File;
  class Bounce;

  const File* FileOf(const void* from) const;
  void ReadPiece(const File& file, int64_t offset, int64_t bytes, std::byte* to, Bounce& bounce);
  // Past the page cache, by whole blocks.
  void ReadBlocks(const File& file, int64_t offset, int64_t bytes, std::byte* to, Bounce& bounce);
  void Fail(const File& file, int64_t offset, int error);

  std::vector<std::unique_ptr<File>> files_;
  std::vector<Bounce> bounces_;  // By thread.
  kernels::ThreadPool pool_;
  std::atomic<int64_t> bytes_from_cache_{0};
  std::atomic<int64_t> bytes_direct_{0};
  mutable absl::Mutex mutex_;
  Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace facet::worker
