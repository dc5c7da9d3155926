#include "base/http_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio.hpp>

namespace facet {
namespace {

using boost::asio::ip::tcp;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// What the server says to these bytes until it closes the connection.
std::string Converse(int port, const std::string& bytes) {
  boost::asio::io_context io;
  tcp::socket socket(io);
  socket.connect({boost::asio::ip::address_v4::loopback(), static_cast<uint16_t>(port)});
  boost::asio::write(socket, boost::asio::buffer(bytes));
  std::string answer;
  boost::system::error_code end;
  boost::asio::read(socket, boost::asio::dynamic_buffer(answer), end);
  // Reset if it closed with bytes unread.
  EXPECT_TRUE(end == boost::asio::error::eof || end == boost::asio::error::connection_reset)
      << end.message();
  return answer;
}

std::string Get(int port, const std::string& target) {
  return Converse(port, "GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
}

class HttpPagesTest : public ::testing::Test {
 protected:
  HttpPagesTest() {
    pages_ =
        HttpPages::Start("127.0.0.1:0",
                         {{"/count", [this] { return HttpPage{.body = std::to_string(++count_)}; }},
                          {"/down", [] { return HttpPage{.code = 503, .body = "not ready"}; }},
                          {"/throws", []() -> HttpPage { throw std::runtime_error("planted"); }}})
            .value();
  }

  int count_ = 0;
  std::unique_ptr<HttpPages> pages_;
};

TEST_F(HttpPagesTest, APageIsMadeAtEachRequest) {
  EXPECT_THAT(Get(pages_->port(), "/count"), StartsWith("HTTP/1.1 200 OK\r\n"));
  const std::string second = Get(pages_->port(), "/count?since=0");
  EXPECT_THAT(second, HasSubstr("Content-Type: text/plain; charset=utf-8\r\n"));
  EXPECT_THAT(second, EndsWith("\r\n\r\n2"));
}

TEST_F(HttpPagesTest, AConnectionTakesSeveralRequests) {
  const std::string answers =
      Converse(pages_->port(),
               "GET /count HTTP/1.1\r\nHost: x\r\n\r\n"
               "HEAD /count HTTP/1.1\r\nHost: x\r\n\r\n"
               "GET /count HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answers, HasSubstr("\r\n\r\n1HTTP/1.1 200")) << answers;
  EXPECT_THAT(answers, EndsWith("Content-Length: 1\r\n\r\n3")) << "HEAD has no body";
}

TEST_F(HttpPagesTest, OtherPathsAndMethodsAreRefused) {
  EXPECT_THAT(Get(pages_->port(), "/down"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(Get(pages_->port(), "/nowhere"), HasSubstr("there are /count /down /throws"));
  const std::string post =
      Converse(pages_->port(), "POST /count HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_THAT(post, StartsWith("HTTP/1.0 405 "));
  EXPECT_EQ(count_, 0);
}

TEST_F(HttpPagesTest, APageThatThrowsEndsItsConnectionOnly) {
  EXPECT_EQ(Get(pages_->port(), "/throws"), "");
  EXPECT_THAT(Get(pages_->port(), "/count"), EndsWith("\r\n\r\n1"));
}

TEST_F(HttpPagesTest, LongHeadersEndTheConnection) {
  EXPECT_EQ(Get(pages_->port(), "/count?" + std::string(20'000, 'x')), "");
}

TEST_F(HttpPagesTest, ATakenPortIsAnError) {
  const auto taken = HttpPages::Start(StrCat("127.0.0.1:", pages_->port()), {});
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(taken.status()), HasSubstr("cannot listen on 127.0.0.1:"));
}

}  // namespace
}  // namespace facet
