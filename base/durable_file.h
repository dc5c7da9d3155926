// Files of lines that outlive the process that writes them, however it ends.
//
// A line is whole once its '\n' is there. A process that dies, or a disk that fills up, can leave a
// torn last line: readers skip it, and the next append cuts it off.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace facet {

// Appends whole lines and returns once they are on the disk; makes the file if there is none. After
// an error nothing of them counts: what was written is cut off now, or by the next append.
Status AppendLines(const std::string& path, std::string_view lines);

// The file has this content or, after an error or a death, its former one.
Status ReplaceFile(const std::string& path, std::string_view content);

// Calls take for each whole line, without its end. NOT_FOUND: there is no such file.
Status ForEachLine(const std::string& path, const std::function<void(std::string_view)>& take);

// The right to write some files: held by one process at a time, until it ends or this goes.
class FileLock {
 public:
  // UNAVAILABLE: another one has it, or the file cannot be made.
  static StatusOr<std::unique_ptr<FileLock>> Take(const std::string& path);
  ~FileLock();

  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  explicit FileLock(int descriptor) : descriptor_(descriptor) {}

  const int descriptor_;
};

}  // namespace facet
