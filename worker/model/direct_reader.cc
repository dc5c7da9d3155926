#include "worker/model/direct_reader.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace facet::worker {
namespace {

// Large enough for a drive's bandwidth, small enough that the threads end together.
constexpr int64_t kPieceBytes = int64_t{2} << 20;
// Offsets, sizes and addresses of direct reads are multiples of the drive's block, at most this.
constexpr int64_t kBlockBytes = 4096;

int64_t RoundDown(int64_t value) { return value / kBlockBytes * kBlockBytes; }

int64_t RoundUp(int64_t value) { return RoundDown(value + kBlockBytes - 1); }

}  // namespace

struct DirectReader::File {
  explicit File(const MappedFile& file)
      : mapped(file),
        buffered(open(file.path.c_str(), O_RDONLY | O_CLOEXEC)),
        direct(open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT)) {}

  ~File() {
    if (buffered >= 0) close(buffered);
    if (direct >= 0) close(direct);
  }

  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const MappedFile mapped;
  const int buffered;
  const int direct;  // -1: the file system has no direct reads.
};

// Aligned memory for a piece and the rests of its first and last block.
class DirectReader::Bounce {
 public:
  std::byte* data() {
    if (!memory_) {
      memory_.reset(static_cast<std::byte*>(
          std::aligned_alloc(kBlockBytes, static_cast<size_t>(kPieceBytes + 2 * kBlockBytes))));
      FACET_CHECK(memory_ != nullptr);
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }  // NOLINT: of aligned_alloc.
  };

  std::unique_ptr<std::byte, Free> memory_;
};

DirectReader::DirectReader(const Checkpoint& checkpoint, int num_threads)
    : bounces_(num_threads), pool_(num_threads) {
  for (const MappedFile& file : checkpoint.files()) files_.push_back(std::make_unique<File>(file));
}

DirectReader::~DirectReader() = default;

Status DirectReader::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

const DirectReader::File* DirectReader::FileOf(const void* from) const {
  const auto* byte = static_cast<const std::byte*>(from);
  for (const std::unique_ptr<File>& file : files_) {
    const MappedFile& mapped = file->mapped;
    if (byte >= mapped.data && byte < mapped.data + mapped.bytes) return file.get();
  }
  return nullptr;
}

void DirectReader::Read(void* to, const void* from, int64_t bytes) {
  const File* file = FileOf(from);
  if (file == nullptr) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  const int64_t begin = static_cast<const std::byte*>(from) - file->mapped.data;
  const int64_t first_piece = begin / kPieceBytes;
  const int64_t num_pieces = (begin + bytes - 1) / kPieceBytes - first_piece + 1;
  pool_.For(num_pieces, [&](int64_t i, int thread) {
    const int64_t offset = std::max(begin, (first_piece + i) * kPieceBytes);
    const int64_t end = std::min(begin + bytes, (first_piece + i + 1) * kPieceBytes);
    ReadPiece(*file, offset, end - offset, static_cast<std::byte*>(to) + (offset - begin),
              bounces_[static_cast<size_t>(thread)]);
  });
}

void DirectReader::ReadPiece(
    const File& file, int64_t offset, int64_t bytes, std::byte* to, Bounce& bounce) {
  if (file.buffered < 0) return Fail(file, offset, ENOENT);
  int64_t done = 0;
  // Without direct reads the same loop waits for the drive.
  const int flags = file.direct >= 0 ? RWF_NOWAIT : 0;
  while (done < bytes) {
    const iovec part{.iov_base = to + done, .iov_len = static_cast<size_t>(bytes - done)};
    const ssize_t got = preadv2(file.buffered, &part, 1, offset + done, flags);
    if (got > 0) {
      done += got;
      continue;
    }
    if (flags == 0 && got < 0 && errno == EINTR) continue;
    if (flags == 0) return Fail(file, offset + done, got < 0 ? errno : ENODATA);
    break;
  }
  bytes_from_cache_ += done;
  if (done < bytes) ReadBlocks(file, offset + done, bytes - done, to + done, bounce);
}

void DirectReader::ReadBlocks(
    const File& file, int64_t offset, int64_t bytes, std::byte* to, Bounce& bounce) {
  const int64_t first = RoundDown(offset);
  const int64_t end = RoundUp(offset + bytes);
  const int64_t needed = offset + bytes - first;  // The file may end before the last block does.
  int64_t done = 0;
  while (done < needed) {
    const ssize_t got = pread(file.direct, bounce.data() + done,
                              static_cast<size_t>(end - first - done), first + done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Fail(file, first + done, got < 0 ? errno : ENODATA);
    // A short read goes on from a whole block; inside one the file ends.
    const int64_t reached = done + got >= needed ? needed : RoundDown(done + got);
    if (reached == done) return Fail(file, first + done + got, ENODATA);
    done = reached;
  }
  std::memcpy(to, bounce.data() + (offset - first), static_cast<size_t>(bytes));
  bytes_direct_ += bytes;
}

void DirectReader::Fail(const File& file, int64_t offset, int error) {
  absl::MutexLock lock(&mutex_);
  if (!status_.ok()) return;
  status_ = Unavailable("cannot read ", file.mapped.path, " at byte ", offset, ": ",
                        error == ENODATA ? "the file ends there" : std::strerror(error));
}

}  // namespace facet::worker
