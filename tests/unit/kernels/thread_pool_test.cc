#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace facet::kernels {
namespace {

TEST(ThreadPoolTest, EveryItemIsDoneOnceBeforeForReturns) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int loop = 0; loop < 300; ++loop) {
      std::vector<int> done(loop % 7 * 13);
      pool.For(static_cast<int64_t>(done.size()), [&](int64_t item, int thread) {
        ASSERT_LT(thread, threads);
        ++done[item];
      });
      for (const int count : done) ASSERT_EQ(count, 1);
    }
  }
}

}  // namespace
}  // namespace facet::kernels
