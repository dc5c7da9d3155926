#include "worker/engine/charge.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace facet::worker {

bool IsDecode(const PlannedChunk& chunk) {
  return chunk.num_tokens == 1 && chunk.first >= chunk.sequence->num_prompt_tokens();
}

std::vector<Charge> ChargeStep(const StepPlan& plan, int64_t device_ns) {
  const std::vector<PlannedChunk>& chunks = plan.chunks();
  const int64_t total = plan.num_tokens();
  std::vector<int64_t> shares(chunks.size());
  std::vector<int64_t> remainders(chunks.size());
  int64_t given = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const __int128 product = static_cast<__int128>(device_ns) * chunks[i].num_tokens;
    shares[i] = static_cast<int64_t>(product / total);
    remainders[i] = static_cast<int64_t>(product % total);
    given += shares[i];
  }
  std::vector<size_t> order(chunks.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  for (size_t i = 0; i < static_cast<size_t>(device_ns - given); ++i) ++shares[order[i]];

  std::vector<Charge> charges(chunks.size());
  for (size_t i = 0; i < chunks.size(); ++i) {
    const PlannedChunk& chunk = chunks[i];
    (IsDecode(chunk) ? charges[i].decode_ns : charges[i].prefill_ns) = shares[i];
    charges[i].recomputed_ns = shares[i] * chunk.num_recomputed / chunk.num_tokens;
  }
  return charges;
}

int64_t CostNanoUsd(int64_t device_ns, double price_usd_per_hour) {
  // 1 USD/h = 1e9 nano-USD / 3.6e12 ns.
  return static_cast<int64_t>(
      std::floor(static_cast<double>(device_ns) * price_usd_per_hour / 3600.0));
}

}  // namespace facet::worker
