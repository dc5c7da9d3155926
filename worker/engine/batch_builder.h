// Turns a plan into what the executor takes: ids, positions, block tables, sampling of new slots.
#pragma once

#include "worker/engine/step_plan.h"
#include "worker/model/step_batch.h"

namespace facet::worker {

struct BatchOptions {
  LogitsWanted prompt_logits = LogitsWanted::kNone;  // Of chunks that do not reach the end.
  LogitsWanted last_logits = LogitsWanted::kLast;    // Of chunks that do.
  bool return_logits = false;
};

// The plan's sequences must hold the blocks that their chunks need. Marks their slot state as sent.
StepBatch BuildBatch(const StepPlan& plan, const BatchOptions& options = {});

}  // namespace facet::worker
