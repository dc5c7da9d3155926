#include "base/log.h"

#include <gtest/gtest.h>

namespace facet {
namespace {

TEST(LogTest, WritesOneJsonLine) {
  ::testing::internal::CaptureStderr();
  Log(kInfo, "request finished", {{"request_id", "a\"b"}, {"ttft_ms", 1.5}, {"tokens", 7}});
  const std::string line = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(
      line.find(R"("event":"request finished","request_id":"a\"b","ttft_ms":1.5,"tokens":7})"),
      std::string::npos)
      << line;
}

TEST(LogTest, ReplacesInvalidUtf8) { EXPECT_EQ(JsonQuote("a\xff"), "\"a\xef\xbf\xbd\""); }

}  // namespace
}  // namespace facet
