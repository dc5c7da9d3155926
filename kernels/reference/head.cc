#include "kernels/head.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/reference/plain.h"
#include "kernels/reference/reference_backend.h"
#include "kernels/sampling_math.h"

namespace facet::kernels {
namespace {

using namespace reference;  // NOLINT(google-build-using-namespace): the words of this folder.

float Softcap(float logit, float cap, DType dtype) {
  if (Misread(Misreading::kSoftcapIgnored)) return logit;
  if (Misread(Misreading::kSoftcapHardCoded)) cap = 30;
  if (cap == 0) return logit;
  const float tanh = RoundTo(dtype, std::tanh(RoundTo(dtype, logit / cap)));
  return RoundTo(dtype, tanh * cap);
}

// Step 1 of SampleRow: penalties, bias, barred ids, mask.
Row Adjusted(Row logits, const SampleRow& row) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (const SampleRow::Seen& seen : row.seen) {
    float& logit = logits[seen.id];
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (seen.num_generated > 0) logit -= row.presence_penalty;
    logit -= row.frequency_penalty * static_cast<float>(seen.num_generated);
  }
  for (const SampleRow::Bias& bias : row.bias) logits[bias.id] += bias.value;
  for (const int32_t id : row.barred) logits[id] = kNever;
  for (size_t id = 0; !row.mask.empty() && id < logits.size(); ++id) {
    if ((row.mask[id / 32] >> (id % 32) & 1) == 0) logits[id] = kNever;
  }
  return logits;
}

// Steps 2 to 5 and the draw. All ids sorted by falling logit, lower id first, then cut.
int32_t DrawFrom(const Row& adjusted, const SampleRow& row) {
  std::vector<int32_t> order(adjusted.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return adjusted[a] > adjusted[b]; });
  if (row.temperature == 0) return order[0];
  const float largest = adjusted[order[0]] / row.temperature;
  const auto weight = [&](int32_t id) {
    return ApproxExp(adjusted[id] / row.temperature - largest);
  };
  size_t kept = 0;
  while (kept < order.size() && weight(order[kept]) > 0 && weight(order[kept]) >= row.min_p) ++kept;
  if (row.top_k > 0) kept = std::min(kept, static_cast<size_t>(row.top_k));
  if (row.top_p < 1) {
    double total = 0;
    for (size_t i = 0; i < kept; ++i) total += weight(order[i]);
    double sum = 0;
    size_t i = 0;
    while (i < kept && sum < row.top_p * total) sum += weight(order[i++]);
    kept = std::max<size_t>(i, 1);
  }
  const NoiseKey key{row.seed, row.choice, static_cast<uint64_t>(row.position)};
  int32_t best = order[0];
  float best_score = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < kept; ++i) {
    const float score = adjusted[order[i]] / row.temperature + GumbelNoise(key, order[i]);
    if (score > best_score || (score == best_score && order[i] < best)) {
      best = order[i];
      best_score = score;
    }
  }
  return best;
}

void AddLogprobs(const Row& logits, const SampleRow& row, SampledToken& token) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) - largest);
  const double log_total = std::log(total) + largest;
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  token.logprob = static_cast<float>(logits[token.id] - log_total);
  for (int32_t i = 0; i + 1 < row.num_logprobs; ++i) {
    token.top_ids.push_back(order[i]);
    token.top_logprobs.push_back(static_cast<float>(logits[order[i]] - log_total));
  }
}

}  // namespace

void ReferenceBackend::DoHead(const HeadArgs& args) {
  const DType dtype = args.hidden.dtype();
  for (int64_t r = 0; r < args.rows.dim(0); ++r) {
    const Row x =
        RmsNorm(RowOf(args.hidden, args.rows.as<int32_t>()[r]), args.norm_weight, args.eps, dtype);
    Row logits = Linear(args.weight, x, dtype);
    for (float& logit : logits) {
      if (Misread(Misreading::kHeadScaled)) logit *= std::sqrt(static_cast<float>(x.size()));
      logit = Softcap(logit, args.softcap, dtype);
    }
    PutRow(args.logits, r, logits);
  }
}

void ReferenceBackend::Draw(const SampleArgs& args, std::span<SampledToken> tokens) {
  for (size_t i = 0; i < args.rows.size(); ++i) {
    const SampleRow& row = args.rows[i];
    SampledToken& token = tokens[i];
    const Row logits = RowOf(args.logits, row.logits_row);
    token.finite =
        std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
    if (!token.finite) continue;
    token.id = DrawFrom(Adjusted(logits, row), row);
    if (row.num_logprobs > 0) AddLogprobs(logits, row, token);
  }
}

}  // namespace facet::kernels
