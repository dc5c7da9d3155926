// Every limit that a request must keep, in one place. What comes out is complete: defaults filled,
// no field needs another check. Each refusal names field, value and bound, and carries the field.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "facet/worker/v1/worker.pb.h"
#include "router/client_request.h"
#include "router/served_model.h"

namespace facet::router {

// An admitted request: what later stages need, beside the prompt.
struct Ticket {
  const ServedModel* model = nullptr;
  worker::v1::Sampling sampling;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;  // The model's own and the client's.
  int32_t new_tokens_max = 0;           // 0: what the context leaves, at most kNewTokensDefault.
  int32_t new_tokens_min = 0;
  int32_t logprobs = 0;
  int64_t deadline_ns = 0;
};

struct AdmissionContext {
  const std::vector<ServedModel>& models;
  int64_t now_ns = 0;
  int64_t deadline_ms_default = 0;
  uint64_t fresh_seed = 0;  // For a request that brings none.
};

inline constexpr int32_t kNewTokensDefault = 2048;

// The model of that name, or the only one for an empty name. NOT_FOUND lists the served ones.
StatusOr<const ServedModel*> FindModel(const std::string& name,
                                       const std::vector<ServedModel>& models);

// INVALID_ARGUMENT, NOT_FOUND for an unknown model, DEADLINE_EXCEEDED if it has passed.
StatusOr<Ticket> Admit(const ClientRequest& request, const AdmissionContext& context);

// Once the prompt's tokens are known: the number of new tokens in force, which fit behind them.
// context_tokens_max is the longest prompt and output that can be served.
StatusOr<int32_t> FitContext(const Ticket& ticket,
                             const std::vector<int32_t>& prompt_ids,
                             int32_t context_tokens_max);

}  // namespace facet::router
