// Lines that outlive their writer.
#include "base/durable_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <vector>

#include "base/file.h"
#include "tests/support/temp_directory.h"

namespace facet {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> LinesOf(const std::string& path) {
  std::vector<std::string> lines;
  EXPECT_TRUE(ForEachLine(path, [&](std::string_view line) { lines.emplace_back(line); }).ok());
  return lines;
}

TEST(DurableFileTest, ATornLastLineIsSkippedAndCutByTheNextAppend) {
  const testing::TempDirectory directory;
  const std::string path = directory / "f";
  ASSERT_TRUE(AppendLines(path, "one\ntwo\n").ok());
  std::ofstream(path, std::ios::app) << "thr";
  EXPECT_THAT(LinesOf(path), ElementsAre("one", "two"));
  ASSERT_TRUE(AppendLines(path, "four\n").ok());
  EXPECT_EQ(*ReadFile(path), "one\ntwo\nfour\n");
}

TEST(DurableFileTest, AFileThatIsOneTornLineIsEmptied) {
  const testing::TempDirectory directory;
  const std::string path = directory / "f";
  std::ofstream(path) << std::string(10'000, 'x');
  EXPECT_THAT(LinesOf(path), ElementsAre());
  ASSERT_TRUE(AppendLines(path, "a\n").ok());
  EXPECT_EQ(*ReadFile(path), "a\n");
}

TEST(DurableFileTest, ReplacingLeavesNothingElse) {
  const testing::TempDirectory directory;
  const std::string path = directory / "f";
  ASSERT_TRUE(AppendLines(path, "old\n").ok());
  ASSERT_TRUE(ReplaceFile(path, "new\n").ok());
  EXPECT_EQ(*ReadFile(path), "new\n");
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
}

TEST(DurableFileTest, AFullDiskIsAnError) {
  const Status status = AppendLines("/dev/full", "a\n");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(MessageOf(status), "cannot write /dev/full: No space left on device");
}

TEST(DurableFileTest, ALockHasOneHolder) {
  const testing::TempDirectory directory;
  auto first = FileLock::Take(directory / "lock");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(FileLock::Take(directory / "lock").status().code(), absl::StatusCode::kUnavailable);
  first->reset();
  EXPECT_TRUE(FileLock::Take(directory / "lock").ok());
}

}  // namespace
}  // namespace facet
