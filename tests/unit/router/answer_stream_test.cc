#include "router/answer_stream.h"

#include <gtest/gtest.h>

namespace facet::router {
namespace {

class CountingStream final : public AnswerStream {
 public:
  void OnReadable() override { ++wakes; }

  int wakes = 0;
};

AnswerEvent Text(const std::string& text, int position) {
  AnswerEvent event;
  event.mutable_text()->set_text(text);
  event.mutable_text()->set_first_position(position);
  event.mutable_text()->add_token_ids(position);
  return event;
}

TEST(AnswerStreamTest, MergesTextThatWaitsIntoOneEvent) {
  CountingStream stream;
  ASSERT_TRUE(stream.Push(Text("a", 0)));
  EXPECT_EQ(std::get<AnswerEvent>(*stream.Next()).text().text(), "a");
  ASSERT_TRUE(stream.Push(Text("b", 1)));
  ASSERT_TRUE(stream.Push(Text("c", 2)));
  const AnswerEvent merged = std::get<AnswerEvent>(*stream.Next());
  EXPECT_EQ(merged.text().text(), "bc");
  EXPECT_EQ(merged.text().first_position(), 1);
  EXPECT_EQ(merged.text().token_ids_size(), 2);
}

TEST(AnswerStreamTest, KeepsThoughtsAndTextApart) {
  CountingStream stream;
  AnswerEvent thought;
  thought.mutable_thought()->set_text("hm");
  ASSERT_TRUE(stream.Push(Text("a", 0)));
  ASSERT_TRUE(stream.Push(thought));
  ASSERT_TRUE(stream.Push(Text("b", 1)));
  EXPECT_TRUE(std::get<AnswerEvent>(*stream.Next()).has_text());
  EXPECT_TRUE(std::get<AnswerEvent>(*stream.Next()).has_thought());
  EXPECT_TRUE(std::get<AnswerEvent>(*stream.Next()).has_text());
}

TEST(AnswerStreamTest, WakesTheConsumerOnlyWhenItIsIdle) {
  CountingStream stream;
  ASSERT_TRUE(stream.Push(Text("a", 0)));
  ASSERT_TRUE(stream.Push(Text("b", 1)));
  EXPECT_EQ(stream.wakes, 1);
  EXPECT_TRUE(stream.Next().has_value());
  EXPECT_FALSE(stream.Next().has_value());  // Now it is idle.
  stream.End(absl::OkStatus());
  EXPECT_EQ(stream.wakes, 2);
  EXPECT_TRUE(std::get<Status>(*stream.Next()).ok());
}

TEST(AnswerStreamTest, RefusesWhatAClientLeavesUnread) {
  CountingStream stream;
  const std::string kilobyte(1024, 'x');
  int taken = 0;
  while (stream.Push(Text(kilobyte, taken))) ++taken;
  EXPECT_GT(taken, 200);
  EXPECT_LE(taken, 256);
}

TEST(AnswerStreamTest, AnErrorDropsWhatIsUnread) {
  CountingStream stream;
  ASSERT_TRUE(stream.Push(Text("a", 0)));
  stream.End(Unavailable("gone"));
  EXPECT_EQ(std::get<Status>(*stream.Next()).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(stream.Push(Text("b", 1)));
}

}  // namespace
}  // namespace facet::router
