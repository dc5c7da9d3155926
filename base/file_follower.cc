#include "base/file_follower.h"

#include <utility>

#include "base/file.h"

namespace facet {
namespace {

constexpr absl::Duration kReadInterval = absl::Seconds(1);

}  // namespace

FileFollower::FileFollower(std::string path,
                           std::string known,
                           std::function<void(const StatusOr<std::string>& text)> on_change)
    : path_(std::move(path)), on_change_(std::move(on_change)), last_text_(std::move(known)) {}

FileFollower::~FileFollower() {
  {
    absl::MutexLock lock(&mutex_);
    ends_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

// The whole text is compared, not times and sizes: a new hash is as long as the old one, and a file
// may be written twice within one tick of its clock.
void FileFollower::Refresh() {
  StatusOr<std::string> text = ReadFile(path_);
  if (text == last_text_) return;
  last_text_ = text;
  on_change_(text);
}

void FileFollower::Follow() {
  thread_ = std::thread([this] {
    while (true) {
      {
        absl::MutexLock lock(&mutex_);
        if (mutex_.AwaitWithTimeout(absl::Condition(&ends_), kReadInterval)) return;
      }
      Refresh();
    }
  });
}

}  // namespace facet
