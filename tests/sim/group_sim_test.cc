// The group protocol under faults: the real GroupHub and GroupMember of 1 to 8 ranks and up to two
// spares, on a simulated network and clock, with a model of the workers above and of a router.
// Killed and restarted processes (without memory), processes that stand still and go on, links cut
// one way or both, rank 0 among them; steps with random work, drains.
//
//   group_sim_test [--runs=N] [--seed=S]     N runs from seed S on; one seed alone: --runs=1
//
// What must be true: no frame reaches a client after one of a newer group; all ranks have the same
// header for a step, and somebody wanted it; an epoch belongs to one group and its messages to that
// group; a fault that lasts is noticed by every healthy rank within a second, save in the last step
// of a group that drains; there is no fault where none was injected; and after the last one a group
// of all ranks makes a step within 5 s.
#include <gtest/gtest.h>

#include <cstdint>
#include <iostream>
#include <map>
#include <string>
#include <string_view>

#include "base/log.h"
#include "tests/sim/sim_world.h"

namespace facet::sim {
namespace {

int64_t g_runs = 10'000;
uint64_t g_seed = 1;

TEST(GroupSimTest, GroupsKeepTheirPromisesUnderFaults) {
  std::map<std::string, int64_t> sum;
  for (int64_t i = 0; i < g_runs; ++i) {
    World world(g_seed + i);
    const std::string wrong = world.Run();
    ASSERT_EQ(wrong, "");
    const World::Totals& totals = world.totals();
    sum["faults"] += totals.num_faults;
    sum["groups"] += totals.num_groups;
    sum["groups that drained"] += totals.num_drained;
    sum["spares that became a rank"] += totals.num_assigned;
    sum["processes whose rank was taken"] += totals.num_refused;
    sum["frames delivered"] += totals.frames_delivered;
    sum["frames of older epochs dropped"] += totals.frames_dropped;
  }
  for (const auto& [what, count] : sum) {
    std::cout << what << ": " << count << "\n";
    EXPECT_TRUE(count > 0 || g_runs < 1000) << what << ": the simulation tries too little";
  }
}

}  // namespace
}  // namespace facet::sim

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  facet::SetLogLevel(facet::LogLevel::kError);
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag.starts_with("--runs=")) facet::sim::g_runs = std::stoll(std::string(flag.substr(7)));
    if (flag.starts_with("--seed=")) facet::sim::g_seed = std::stoull(std::string(flag.substr(7)));
  }
  return RUN_ALL_TESTS();
}
