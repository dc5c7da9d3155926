#include "worker/engine/prompt_logits.h"

#include <algorithm>

#include "worker/engine/batch_builder.h"
#include "worker/engine/scheduler.h"

namespace facet::worker {

namespace {

Status RunPrompt(Executor& executor,
                 const std::vector<int32_t>& ids,
                 int32_t chunk_tokens,
                 const BatchOptions& options,
                 const LogitsConsumer& consumer) {
  const ExecutorInfo& info = executor.info();
  if (ids.empty()) return InvalidArgument("ids is empty; at least one id");
  for (const int32_t id : ids) {
    if (id < 0 || id >= info.vocab) {
      return InvalidArgument("ids holds ", id, "; ids are in [0, ", info.vocab - 1, "]");
    }
  }
  if (chunk_tokens < 1) return InvalidArgument("chunk is ", chunk_tokens, "; at least 1");
  Scheduler scheduler({.running_max = 1,
                       .waiting_max = 0,
                       .step_tokens_max = info.step_tokens_max,
                       .chunk_tokens_max = std::min(chunk_tokens, info.step_tokens_max),
                       .context_tokens_max = info.context_tokens_max},
                      info.kv);
  FACET_RETURN_IF_ERROR(scheduler.Add(
      {.request_id = "prompt", .prompt_ids = ids, .sampling = {.temperature = 0}}, 0));
  Sequence& seq = *scheduler.Find(0, "prompt");
  while (seq.num_computed < seq.num_prompt_tokens()) {
    const StepPlan plan = scheduler.Schedule(/*may_preempt=*/true);
    FACET_CHECK(!plan.empty());
    const StepBatch batch = BuildBatch(plan, options);
    const StepResult result = executor.Await(executor.Submit(batch));
    FACET_RETURN_IF_ERROR(result.status);
    consumer(plan.chunks()[0].first, result.logits);
    scheduler.OnStepDone(plan);
  }
  return absl::OkStatus();
}

}  // namespace

Status RunPromptLogits(Executor& executor,
                       const std::vector<int32_t>& ids,
                       int32_t chunk_tokens,
                       const LogitsConsumer& consumer) {
  return RunPrompt(executor, ids, chunk_tokens,
                   {.prompt_logits = LogitsWanted::kAll,
                    .last_logits = LogitsWanted::kAll,
                    .return_logits = true},
                   consumer);
}

StatusOr<std::vector<float>> RunLastLogits(Executor& executor,
                                           const std::vector<int32_t>& ids,
                                           int32_t chunk_tokens) {
  std::vector<float> last;
  FACET_RETURN_IF_ERROR(RunPrompt(
      executor, ids, chunk_tokens, {.return_logits = true},
      [&](int64_t, std::span<const float> logits) { last.assign(logits.begin(), logits.end()); }));
  return last;
}

}  // namespace facet::worker
