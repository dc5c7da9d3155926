// What may be seen of the experts that tokens chose: sums that no request shows in.
#include "worker/engine/expert_load.h"

#include <gtest/gtest.h>

#include "tests/support/counting_executor.h"
#include "tests/support/engine_driver.h"
#include "tests/support/fake_clock.h"

namespace facet::test {
namespace {

using worker::ExpertLoadGate;

constexpr int64_t kMinuteNs = 60'000'000'000;

// Fills the gate but for what a case leaves out.
struct WithheldCase {
  const char* name;
  int64_t elapsed_ns;
  int64_t tokens_each;
  int tenants;
};

class ExpertLoadGateTest : public ::testing::TestWithParam<WithheldCase> {};

TEST_P(ExpertLoadGateTest, StaysShutUntilAllThreeAreThere) {
  const WithheldCase& row = GetParam();
  ExpertLoadGate gate(1000);
  for (int tenant = 0; tenant < row.tenants; ++tenant) {
    gate.Count(StrCat("tenant-", tenant), row.tokens_each);
  }
  EXPECT_FALSE(gate.Open(1000 + row.elapsed_ns));
  // With what was missing it opens, once.
  for (int tenant = 0; tenant < 8; ++tenant) gate.Count(StrCat("tenant-", tenant), 12'500);
  EXPECT_TRUE(gate.Open(1000 + kMinuteNs));
  EXPECT_FALSE(gate.Open(1000 + 2 * kMinuteNs));
}

INSTANTIATE_TEST_SUITE_P(All,
                         ExpertLoadGateTest,
                         ::testing::Values(WithheldCase{"time", kMinuteNs - 1, 20'000, 8},
                                           WithheldCase{"tokens", kMinuteNs, 12'499, 8},
                                           WithheldCase{"tenants", kMinuteNs, 20'000, 7}),
                         [](const auto& row) { return row.param.name; });

worker::SequenceRequest Prompt(const std::string& id, const std::string& tenant, size_t tokens) {
  worker::SequenceRequest request;
  request.request_id = id;
  request.tenant = tenant;
  request.prompt_ids.assign(tokens, 7);
  request.epoch = 1;
  request.new_tokens_max = 2;
  return request;
}

// Differencing: what is exported is the same with and without the victim's prompt.
TEST(ExpertLoadTest, APromptNeverShowsInWhatIsExported) {
  CountingExecutor executor({.num_slabs = 4096, .step_tokens_max = 4096});
  testing::FakeClock clock;
  EngineDriver driver({.scheduler = {.running_max = 8,
                                     .waiting_max = 100,
                                     .step_tokens_max = 4096,
                                     .chunk_tokens_max = 4096,
                                     .context_tokens_max = 16'000}},
                      executor, clock);
  const auto exported = [&] { return driver.engine().Stats().expert_choices; };
  const auto run = [&](const std::string& id, const std::string& tenant, size_t tokens) {
    driver.Submit(Prompt(id, tenant, tokens));
    ASSERT_TRUE(driver.RunAll());
  };
  run("victim", "victim", 9000);
  clock.AdvanceMs(60'000);
  EXPECT_TRUE(exported().empty()) << "withheld in low traffic";
  for (int tenant = 0; tenant < 8; ++tenant) {
    run(StrCat("crowd-", tenant), StrCat("tenant-", tenant), 12'500);
  }
  run("last", "tenant-0", 10);
  const std::vector<int64_t> before = exported();
  ASSERT_EQ(before.size(), 2u);
  for (int i = 0; i < 5; ++i) {
    clock.AdvanceMs(60'000);
    run(StrCat("victim-", i), "victim", 15'000);
    EXPECT_EQ(exported(), before);
  }
}

}  // namespace
}  // namespace facet::test
