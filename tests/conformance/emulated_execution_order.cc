#include <cstdlib>

#include "tests/conformance/execution_order.h"
#include "tests/support/cuda_emulator/runtime.h"
#include "tests/support/cuda_emulator/scheduler.h"

namespace facet::kernels {

using cuda_emulator::Options;

// FACET_EMULATOR, where it is set, says which instead.
void UseExecutionOrder(uint32_t seed) {
  if (std::getenv("FACET_EMULATOR") != nullptr) return;
  constexpr Options::Order kOrders[] = {Options::Order::kForward, Options::Order::kReverse,
                                        Options::Order::kRandom};
  constexpr Options::Copies kCopies[] = {Options::Copies::kLazy, Options::Copies::kEager,
                                         Options::Copies::kMixed, Options::Copies::kLazy};
  cuda_emulator::options() = {
      .order = kOrders[seed % 3], .copies = kCopies[seed % 4], .seed = seed};
}

std::function<std::string(cudaGraphExec_t, cudaGraph_t)> ReplayComparison() {
  return cuda_emulator::FirstDifference;
}

}  // namespace facet::kernels
