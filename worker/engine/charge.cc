#include "worker/engine/charge.h"

#include <algorithm>
#include <numeric>

namespace facet::worker {

bool IsDecode(const PlannedChunk& chunk) {
  return chunk.num_tokens == 1 && chunk.first >= chunk.sequence->num_prompt_tokens();
}

std::vector<StepRow> StepRowsOf(const StepPlan& plan) {
  std::vector<StepRow> rows;
  rows.reserve(plan.chunks().size());
  for (const PlannedChunk& chunk : plan.chunks()) {
    rows.push_back({.is_decode = IsDecode(chunk),
                    .num_tokens = chunk.num_tokens,
                    .context = StepRow::MeanContext(chunk.first, chunk.num_tokens),
                    .has_logits = chunk.samples});
  }
  return rows;
}

PhaseWork WorkOf(std::span<const StepRow> rows, const ModelWork& model) {
  int32_t num_tokens = 0;
  for (const StepRow& row : rows) num_tokens += row.num_tokens;
  const double weight_bytes_per_token =
      num_tokens > 0 ? model.WeightBytes(num_tokens) / num_tokens : 0;
  PhaseWork work;
  for (const StepRow& row : rows) {
    Work of_row = model.OfRow(row);
    of_row.bytes += weight_bytes_per_token * row.num_tokens;
    (row.is_decode ? work.decode : work.prefill) += of_row;
  }
  return work;
}

std::vector<int64_t> Divide(int64_t total, std::span<const uint64_t> weights) {
  const uint64_t sum = std::accumulate(weights.begin(), weights.end(), uint64_t{0});
  FACET_CHECK(total >= 0 && sum > 0) << total << sum;
  std::vector<int64_t> shares(weights.size());
  std::vector<uint64_t> remainders(weights.size());
  int64_t left = total;
  for (size_t i = 0; i < weights.size(); ++i) {
    const unsigned __int128 product = static_cast<unsigned __int128>(total) * weights[i];
    shares[i] = static_cast<int64_t>(product / sum);
    remainders[i] = static_cast<uint64_t>(product % sum);
    left -= shares[i];
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  for (size_t i = 0; i < static_cast<size_t>(left); ++i) ++shares[order[i]];
  return shares;
}

Spent PartOfGroup(const Spent& spent, int64_t weight, int64_t group_weight, int32_t num_ranks) {
  FACET_CHECK(weight >= 0 && weight <= group_weight && group_weight > 0) << weight << group_weight;
  const auto part = [&](int64_t total) {
    return static_cast<int64_t>(static_cast<__int128>(total) * num_ranks * weight / group_weight);
  };
  return {.ns = part(spent.ns), .nano_usd = part(spent.nano_usd)};
}

std::vector<Charge> ChargeStep(const StepPlan& plan,
                               std::span<const uint64_t> weights,
                               const Spent& spent) {
  const std::vector<PlannedChunk>& chunks = plan.chunks();
  FACET_CHECK_EQ(weights.size(), chunks.size());
  const std::vector<int64_t> ns = Divide(spent.ns, weights);
  const std::vector<int64_t> nano_usd = Divide(spent.nano_usd, weights);
  std::vector<Charge> charges(chunks.size());
  for (size_t i = 0; i < chunks.size(); ++i) {
    const PlannedChunk& chunk = chunks[i];
    charges[i] = {.is_decode = IsDecode(chunk),
                  .spent = {.ns = ns[i], .nano_usd = nano_usd[i]},
                  .recomputed_ns = ns[i] * chunk.num_recomputed / chunk.num_tokens,
                  .replayed_ns = ns[i] * chunk.num_replayed / chunk.num_tokens};
  }
  return charges;
}

}  // namespace facet::worker
