// Times steps of an executor before it serves, for the step model to be fitted to.
#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "worker/engine/step_model.h"
#include "worker/executor/executor.h"

namespace facet::worker {

// Runs steps of one phase each, from small to large: prefill chunks and decode batches at several
// contexts, as far as slots, KV cache and context go. Each is timed three times, a slow one once,
// and the shortest counts: the first may hold work that is done once, and a busy machine only adds.
//
// Ends when time_ns_max has passed, and before a step that is expected to end later. Nothing else
// may be in the KV cache, and what is there afterwards means nothing. Errors are those of a step.
StatusOr<std::vector<StepSample>> TimeSteps(Executor& executor,
                                            int32_t context_tokens_max,
                                            int64_t time_ns_max,
                                            const Clock& clock);

}  // namespace facet::worker
