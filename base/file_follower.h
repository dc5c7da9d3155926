// A file that is read again each second, so that what it says changes without a restart.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "base/status.h"

namespace facet {

class FileFollower {
 public:
  // known: the text that was read last; on_change hears of every other one, once, or why there is
  // none.
  FileFollower(std::string path,
               std::string known,
               std::function<void(const StatusOr<std::string>& text)> on_change);
  ~FileFollower();

  // From now on a thread calls Refresh each second, and nobody else does.
  void Follow();

  // Reads the file again.
  void Refresh();

 private:
  const std::string path_;
  const std::function<void(const StatusOr<std::string>& text)> on_change_;
  // What was found last, good or not, so that each change is told once. Of the thread that reads.
  StatusOr<std::string> last_text_;
  absl::Mutex mutex_;
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace facet
