// Logits of one prompt, by the same scheduler, batch builder, KV cache and
// executor that serve requests: there is no second forward path. For tools and for tests against an
// oracle.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/status.h"
#include "worker/executor/executor.h"

namespace facet::worker {

// Called with the logits of positions [first, first + logits.size() / vocab), in order.
using LogitsConsumer = std::function<void(int64_t first, std::span<const float> logits)>;

// Runs ids in chunks of at most chunk_tokens (≥ 1). The executor must be idle and its arena unused.
// INVALID_ARGUMENT: no ids, an id outside the vocabulary, or a prompt longer than the cache holds.
Status RunPromptLogits(Executor& executor,
                       const std::vector<int32_t>& ids,
                       int32_t chunk_tokens,
                       const LogitsConsumer& consumer);

// Those behind the last id alone, [vocab], as serving asks for them: a model whose last layers only
// read keys and values then runs them for one token (gemma4.h).
StatusOr<std::vector<float>> RunLastLogits(Executor& executor,
                                           const std::vector<int32_t>& ids,
                                           int32_t chunk_tokens);

}  // namespace facet::worker
