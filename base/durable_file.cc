#include "base/durable_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/log.h"

namespace facet {
namespace {

constexpr mode_t kMode = 0640;  // Who pays what is not for everybody.

// Closed when it goes.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}

  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }

  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }

 private:
  const int fd_;
};

Status Failed(std::string_view what, const std::string& path) {
  return Unavailable("cannot ", what, " ", path, ": ", std::strerror(errno));
}

Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Failed("write", path);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// A new name is on the disk once its directory is.
Status SyncDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const Descriptor fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || fsync(fd.get()) != 0) return Failed("sync", directory);
  return absl::OkStatus();
}

// Where the last whole line ends.
StatusOr<off_t> EndOfLines(int fd, off_t size, const std::string& path) {
  std::array<char, 4096> block{};
  for (off_t end = size; end > 0;) {
    const off_t begin = std::max<off_t>(0, end - static_cast<off_t>(block.size()));
    const ssize_t got = pread(fd, block.data(), static_cast<size_t>(end - begin), begin);
    if (got != end - begin) return Failed("read", path);
    for (off_t i = end - begin; i > 0; --i) {
      if (block[static_cast<size_t>(i - 1)] == '\n') return begin + i;
    }
    end = begin;
  }
  return 0;
}

}  // namespace

Status AppendLines(const std::string& path, std::string_view lines) {
  const Descriptor fd(open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, kMode));

  struct stat info {};

  if (fd.get() < 0 || fstat(fd.get(), &info) != 0) return Failed("open", path);
  FACET_ASSIGN_OR_RETURN(const off_t end, EndOfLines(fd.get(), info.st_size, path));
  if (end != info.st_size) {
    Log(kWarning, "torn last line cut off", {{"file", path}, {"bytes", info.st_size - end}});
    if (ftruncate(fd.get(), end) != 0) return Failed("cut", path);
  }
  Status status = WriteAll(fd.get(), lines, path);
  if (status.ok() && fdatasync(fd.get()) != 0) status = Failed("sync", path);
  if (!status.ok()) {
    // Best effort: the lines will be written again, and readers know a record by its key.
    if (ftruncate(fd.get(), end) != 0) Log(kWarning, "cannot cut", {{"file", path}});
    return status;
  }
  return info.st_size == 0 ? SyncDirectoryOf(path) : absl::OkStatus();
}

Status ReplaceFile(const std::string& path, std::string_view content) {
  const std::string fresh = path + ".new";
  {
    const Descriptor fd(open(fresh.c_str(), O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, kMode));
    if (fd.get() < 0) return Failed("open", fresh);
    FACET_RETURN_IF_ERROR(WriteAll(fd.get(), content, fresh));
    if (fdatasync(fd.get()) != 0) return Failed("sync", fresh);
  }
  if (rename(fresh.c_str(), path.c_str()) != 0) return Failed("rename", fresh);
  return SyncDirectoryOf(path);
}

Status ForEachLine(const std::string& path, const std::function<void(std::string_view)>& take) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("cannot open ", path, ": ", std::strerror(errno));
  std::string line;
  while (std::getline(file, line)) {
    if (file.eof()) break;  // Torn.
    take(line);
  }
  return file.bad() ? Failed("read", path) : absl::OkStatus();
}

StatusOr<std::unique_ptr<FileLock>> FileLock::Take(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kMode);
  if (fd < 0) return Failed("open", path);
  std::unique_ptr<FileLock> lock(new FileLock(fd));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return Unavailable("another process has ", path, " and writes the files it stands for");
  }
  return lock;
}

FileLock::~FileLock() { close(descriptor_); }

}  // namespace facet
