// Which worker a request goes to: filter, score, pick. Pure, so that it can be tested by tables.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace facet::router {

// What the choice needs to know of one worker.
struct RouteCandidate {
  std::string worker;  // Name, for ties.
  bool ready = false;
  int32_t context_tokens_max = 0;
  int64_t sequence_credits = 0;          // Sequences it will start now.
  int64_t prefill_token_credits = 0;     // Prompt tokens it will start now.
  int64_t prefill_tokens_ahead = 0;      // Reported as waiting, and sent since that report.
  int32_t sequences_ahead = 0;           // Running and waiting there, and sent since.
  double prefill_tokens_per_second = 0;  // 0: not known yet.
  double step_ms_predicted = 0;
};

struct RouteQuery {
  int64_t prompt_tokens = 0;   // Counts committed tokens of earlier attempts too.
  int32_t context_tokens = 0;  // Prompt and all new tokens.
  uint64_t hash = 0;           // Of the request, for ties.
};

// Index of the worker with the least predicted cost in seconds among those that are ready, can hold
// the request and have credit for it; nullopt if none is.
//
//   cost = (prefill tokens ahead + prompt) / rate + sequences ahead * step / 2
//
// The first term is the time to the first token; the second charges the request with what it adds
// to the gaps of the sequences it joins. Ties go by rendezvous hash, so that routers that see the
// same fleet agree.
std::optional<int> PickWorker(std::span<const RouteCandidate> workers, const RouteQuery& query);

}  // namespace facet::router
