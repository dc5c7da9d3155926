// What an executor does before it serves: a first step, that it works, and steps that are timed,
// for the step model to be fitted to.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "worker/engine/step_model.h"
#include "worker/executor/executor.h"

namespace facet::worker {

// Runs steps of one phase each, from small to large: prefill chunks and decode batches at several
// contexts, as far as slots, KV cache and context go. Each is timed three times, a slow one once,
// and the shortest counts: the first may hold work that is done once, and a busy machine only adds.
//
// Ends when steps have taken device_ns_max, and before one that is expected to go beyond. Nothing
// else may be in the KV cache, and what is there afterwards means nothing. Errors are those of a
// step.
//
// Ranks of a group do it together, each with rows alike, and count the means of their times: they
// all have the same samples.
StatusOr<std::vector<StepSample>> TimeSteps(Executor& executor,
                                            int32_t context_tokens_max,
                                            int64_t device_ns_max);

// The step model fitted to a second of TimeSteps, or where that says too little the default one;
// the log has it with its error. The same for all ranks of a group.
StatusOr<StepModel> WarmUp(Executor& executor, int32_t context_tokens_max);

// The sum of what the ranks of a group call this with, after the same steps.
StatusOr<int64_t> SumOfRanks(Executor& executor, int64_t value);

// One step over one token, so that a worker that says it is ready has computed something.
Status RunCanary(Executor& executor, int32_t bos_id);

}  // namespace facet::worker
