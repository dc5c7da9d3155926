#include "kernels/host_sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/approx.h"
#include "kernels/sampling_math.h"

namespace facet::kernels {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Candidate {
  float score;  // Logit after step 1, divided by the temperature.
  int32_t id;
};

// Falling score, lower id first.
bool Before(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

// Step 1 of SampleRow, in place.
void Adjust(const SampleRow& row, int64_t vocab, float* logits) {
  for (const SampleRow::Seen& seen : row.seen) {
    float& logit = logits[seen.id];
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (seen.num_generated > 0) logit -= row.presence_penalty;
    logit -= row.frequency_penalty * static_cast<float>(seen.num_generated);
  }
  for (const SampleRow::Bias& bias : row.bias) logits[bias.id] += bias.value;
  for (const int32_t id : row.barred) logits[id] = kNever;
  if (row.mask.empty()) return;
  for (int64_t id = 0; id < vocab; ++id) {
    if ((row.mask[id / 32] >> (id % 32) & 1) == 0) logits[id] = kNever;
  }
}

// Steps 2 to 5: what may still be drawn.
std::vector<Candidate> Filter(const SampleRow& row, const float* logits, int64_t vocab) {
  float largest = kNever;
  for (int64_t id = 0; id < vocab; ++id) {
    largest = std::max(largest, logits[id] / row.temperature);
  }
  const auto weight = [&](const Candidate& c) { return ApproxExp(c.score - largest); };
  std::vector<Candidate> kept;
  for (int32_t id = 0; id < vocab; ++id) {
    const Candidate candidate{.score = logits[id] / row.temperature, .id = id};
    const float w = weight(candidate);
    if (w > 0 && w >= row.min_p) kept.push_back(candidate);
  }
  const auto top_k = static_cast<size_t>(row.top_k);
  if (top_k > 0 && kept.size() > top_k) {
    std::nth_element(kept.begin(), kept.begin() + row.top_k - 1, kept.end(), Before);
    kept.resize(top_k);
  }
  if (row.top_p < 1) {
    std::sort(kept.begin(), kept.end(), Before);
    double total = 0;
    for (const Candidate& candidate : kept) total += weight(candidate);
    double sum = 0;
    size_t i = 0;
    while (i < kept.size() && sum < row.top_p * total) sum += weight(kept[i++]);
    kept.resize(std::max<size_t>(i, 1));
  }
  return kept;
}

int32_t Draw(const SampleRow& row, const float* logits, int64_t vocab) {
  if (row.temperature == 0) {
    return static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
  }
  const NoiseKey key{row.seed, row.choice, static_cast<uint64_t>(row.position)};
  Candidate best{.score = kNever, .id = 0};
  bool first = true;
  for (const Candidate& candidate : Filter(row, logits, vocab)) {
    const Candidate noisy{.score = candidate.score + GumbelNoise(key, candidate.id),
                          .id = candidate.id};
    if (first || Before(noisy, best)) best = noisy;
    first = false;
  }
  return best.id;
}

void AddLogprobs(const SampleRow& row, const float* logits, int64_t vocab, SampledToken& token) {
  const float largest = *std::max_element(logits, logits + vocab);
  double total = 0;
  for (int64_t id = 0; id < vocab; ++id) total += ApproxExp(logits[id] - largest);
  const double log_total = std::log(total) + largest;
  token.logprob = static_cast<float>(logits[token.id] - log_total);
  const int64_t num_best = std::min<int64_t>(row.num_logprobs - 1, vocab);
  std::vector<Candidate> best(vocab);
  for (int32_t id = 0; id < vocab; ++id) best[id] = {.score = logits[id], .id = id};
  std::partial_sort(best.begin(), best.begin() + num_best, best.end(), Before);
  for (int64_t i = 0; i < num_best; ++i) {
    token.top_ids.push_back(best[i].id);
    token.top_logprobs.push_back(static_cast<float>(best[i].score - log_total));
  }
}

}  // namespace

SampledToken SampleOnHost(const SampleRow& row,
                          const float* logits,
                          int64_t vocab,
                          float* scratch) {
  SampledToken token;
  for (int64_t id = 0; id < vocab; ++id) token.finite = token.finite && std::isfinite(logits[id]);
  if (!token.finite) return token;
  std::copy_n(logits, vocab, scratch);
  Adjust(row, vocab, scratch);
  token.id = Draw(row, scratch, vocab);
  if (row.num_logprobs > 0) AddLogprobs(row, logits, vocab, token);
  return token;
}

}  // namespace facet::kernels
