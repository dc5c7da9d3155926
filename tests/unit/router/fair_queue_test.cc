#include "router/admission/fair_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace facet::router {
namespace {

std::string PopAll(FairQueue<std::string>& queue) {
  std::string all;
  while (!queue.empty()) all += (all.empty() ? "" : " ") + queue.PopFront();
  return all;
}

TEST(FairQueueTest, TenantsTakeTurnsAndKeepTheirOwnOrder) {
  FairQueue<std::string> queue;
  for (const char* item : {"a1", "a2", "a3", "a4", "b1", "b2", "c1"}) {
    queue.PushBack(std::string(1, item[0]), item);
  }
  EXPECT_EQ(PopAll(queue), "a1 b1 c1 a2 b2 a3 a4");
}

TEST(FairQueueTest, AnItemPushedToTheFrontIsItsTenantsNext) {
  FairQueue<std::string> queue;
  queue.PushBack("a", "a1");
  queue.PushBack("b", "b1");
  queue.PushFront("b", "b0");
  EXPECT_EQ(PopAll(queue), "a1 b0 b1");
}

TEST(FairQueueTest, TakenItemsLeaveTheOthersInOrder) {
  FairQueue<std::string> queue;
  for (const char* item : {"a1", "a2", "b1", "a3"}) queue.PushBack(std::string(1, item[0]), item);
  const auto taken = queue.TakeIf([](const std::string& item) { return item[1] == '1'; });
  EXPECT_EQ(taken, (std::vector<std::string>{"a1", "b1"}));
  EXPECT_EQ(queue.size(), 2u);
  EXPECT_EQ(PopAll(queue), "a2 a3");
}

// Every item comes out once, in its tenant's order, whatever the operations.
TEST(FairQueueTest, LosesAndRepeatsNothing) {
  constexpr uint32_t kSeed = 20261121;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  FairQueue<std::pair<int, int>> queue;
  std::map<int, int> pushed;
  std::map<int, int> popped;
  for (int i = 0; i < 10'000; ++i) {
    const int tenant = static_cast<int>(random() % 5);
    if (random() % 2 == 0) {
      queue.PushBack(std::to_string(tenant), {tenant, pushed[tenant]++});
    } else if (!queue.empty()) {
      const auto [from, number] = queue.PopFront();
      EXPECT_EQ(number, popped[from]++);
    }
  }
  size_t left = 0;
  for (const auto& [tenant, count] : pushed) left += static_cast<size_t>(count - popped[tenant]);
  EXPECT_EQ(queue.size(), left);
}

}  // namespace
}  // namespace facet::router
