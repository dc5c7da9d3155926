#include "router/routing/route_policy.h"

#include <algorithm>
#include <string_view>

namespace facet::router {
namespace {

// Stands in while no worker knows its speed yet.
constexpr double kUnknownTokensPerSecond = 1000;

bool CanTake(const RouteCandidate& worker, const RouteQuery& query) {
  return worker.ready && worker.sequence_credits >= 1 &&
         worker.prefill_token_credits >= query.prompt_tokens &&
         worker.context_tokens_max >= query.context_tokens;
}

// What a worker that nobody tried is taken for: as fast as the fastest, so that it gets tried.
double BestKnownRate(std::span<const RouteCandidate> workers) {
  double best = 0;
  for (const RouteCandidate& worker : workers) {
    best = std::max(best, worker.prefill_tokens_per_second);
  }
  return best > 0 ? best : kUnknownTokensPerSecond;
}

double CostSeconds(const RouteCandidate& worker, const RouteQuery& query, double unknown_rate) {
  constexpr double kGapShare = 0.5;
  const double rate =
      worker.prefill_tokens_per_second > 0 ? worker.prefill_tokens_per_second : unknown_rate;
  return static_cast<double>(worker.prefill_tokens_ahead + query.prompt_tokens) / rate +
         kGapShare * worker.sequences_ahead * worker.step_ms_predicted / 1000;
}

// splitmix64's finaliser over FNV-1a of the name.
uint64_t Rendezvous(std::string_view worker, uint64_t hash) {
  uint64_t x = 0xcbf29ce484222325ULL ^ hash;
  for (const char c : worker) x = (x ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

std::optional<int> PickWorker(std::span<const RouteCandidate> workers, const RouteQuery& query) {
  const double unknown_rate = BestKnownRate(workers);
  std::optional<int> best;
  double best_cost = 0;
  uint64_t best_tie = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    if (!CanTake(workers[i], query)) continue;
    const double cost = CostSeconds(workers[i], query, unknown_rate);
    const uint64_t tie = Rendezvous(workers[i].worker, query.hash);
    if (best.has_value() && (cost > best_cost || (cost == best_cost && tie <= best_tie))) continue;
    best = static_cast<int>(i);
    best_cost = cost;
    best_tie = tie;
  }
  return best;
}

}  // namespace facet::router
