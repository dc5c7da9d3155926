// A directory of a test's own, gone with it.
#pragma once

#include <filesystem>
#include <string>

#include "base/check.h"

namespace facet::testing {

class TempDirectory {
 public:
  TempDirectory() {
    std::string name = std::filesystem::temp_directory_path() / "facet-test-XXXXXX";
    FACET_CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }

  ~TempDirectory() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }

  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace facet::testing
