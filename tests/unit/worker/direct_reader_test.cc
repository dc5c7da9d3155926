#include "worker/model/direct_reader.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

namespace facet::worker {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kDataBytes = (int64_t{9} << 20) + 777;

// A directory with one file of random bytes, dropped from the page cache as far as the system goes
// along.
class DirectReaderTest : public testing::Test {
 protected:
  DirectReaderTest()
      : directory_(std::filesystem::temp_directory_path() /
                   ("direct_reader_test_" + std::to_string(getpid()))) {
    std::filesystem::create_directory(directory_);
    path_ = directory_ / "model.safetensors";
    const std::string header = R"({"a":{"dtype":"U8","shape":[)" + std::to_string(kDataBytes) +
                               R"(],"data_offsets":[0,)" + std::to_string(kDataBytes) + "]}}";
    std::string bytes;
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(header.size() >> (8 * i)));
    bytes += header;
    std::mt19937 random(3);
    while (static_cast<int64_t>(bytes.size()) <
           8 + static_cast<int64_t>(header.size()) + kDataBytes) {
      bytes.push_back(static_cast<char>(random()));
    }
    std::ofstream(path_, std::ios::binary) << bytes;
    contents_ = bytes.substr(8 + header.size());
    const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(fsync(fd), 0);
    EXPECT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
  }

  ~DirectReaderTest() override { std::filesystem::remove_all(directory_); }

  const std::filesystem::path directory_;
  std::filesystem::path path_;
  std::string contents_;  // Of tensor a.
};

TEST_F(DirectReaderTest, ReadsWhatTheMappingHolds) {
  const Checkpoint checkpoint = *Checkpoint::Open(directory_);
  const StoredTensor& tensor = *checkpoint.Find("a");
  DirectReader reader(checkpoint, 3);
  int64_t bytes_read = 0;
  const auto expect_equal = [&](int64_t offset, int64_t bytes) {
    std::string got(static_cast<size_t>(bytes) + 2, '!');  // Nothing is written outside.
    reader.Read(got.data() + 1, tensor.data + offset, bytes);
    EXPECT_TRUE(got == "!" + contents_.substr(offset, bytes) + "!")
        << bytes << " bytes at " << offset;
    bytes_read += bytes;
  };
  expect_equal(kDataBytes - 5, 5);
  expect_equal(0, 1);
  expect_equal(4000, 200);
  expect_equal(0, kDataBytes);
  std::mt19937 random(4);
  for (int i = 0; i < 50; ++i) {
    const auto offset = static_cast<int64_t>(random() % kDataBytes);
    const auto most = std::min<int64_t>(kDataBytes - offset, 5 << 20);
    expect_equal(offset, 1 + static_cast<int64_t>(random()) % most);
  }
  EXPECT_TRUE(reader.status().ok()) << reader.status();
  EXPECT_EQ(reader.bytes_from_cache() + reader.bytes_direct(), bytes_read);
  RecordProperty("bytes_direct", std::to_string(reader.bytes_direct()));
}

TEST_F(DirectReaderTest, CopiesWhatIsInNoFile) {
  const Checkpoint checkpoint = *Checkpoint::Open(directory_);
  DirectReader reader(checkpoint, 1);
  std::string got(contents_.size(), '!');
  reader.Read(got.data(), contents_.data(), kDataBytes);
  EXPECT_TRUE(got == contents_);
  EXPECT_EQ(reader.bytes_from_cache() + reader.bytes_direct(), 0);
}

TEST_F(DirectReaderTest, NamesTheFileThatEndsTooEarly) {
  const Checkpoint checkpoint = *Checkpoint::Open(directory_);
  DirectReader reader(checkpoint, 2);
  std::filesystem::resize_file(path_, 5000);
  std::string got(contents_.size(), '!');
  reader.Read(got.data(), checkpoint.Find("a")->data, kDataBytes);
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kUnavailable);
  const std::string message(reader.status().message());
  EXPECT_THAT(message, HasSubstr("cannot read " + path_.string() + " at byte "));
  EXPECT_THAT(message, HasSubstr("the file ends there"));
}

}  // namespace
}  // namespace facet::worker
