#include "base/bounded_queue.h"

#include <gtest/gtest.h>

#include <thread>

namespace facet {
namespace {

TEST(BoundedQueueTest, RefusesWhatDoesNotFit) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_TRUE(queue.TryPush(2));
  EXPECT_FALSE(queue.TryPush(3));
  EXPECT_EQ(queue.Drain(), (std::vector<int>{1, 2}));
}

TEST(BoundedQueueTest, AClosedQueueStillGivesWhatItHolds) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.TryPush(1));
  queue.Close();
  EXPECT_FALSE(queue.TryPush(2));
  EXPECT_EQ(queue.WaitAndDrain(), std::vector<int>{1});
  EXPECT_TRUE(queue.WaitAndDrain().empty());
}

TEST(BoundedQueueTest, WakesItsConsumer) {
  BoundedQueue<int> queue(8);
  std::vector<int> got;
  std::thread consumer([&] { got = queue.WaitAndDrain(); });
  EXPECT_TRUE(queue.TryPush(7));
  consumer.join();
  EXPECT_EQ(got, std::vector<int>{7});
}

}  // namespace
}  // namespace facet
