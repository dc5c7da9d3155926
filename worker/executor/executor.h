// What the engine drives: it knows batches of tokens, nothing of sequences or requests.
//
// One ticket may be in flight while the next step is planned: Submit(a), plan b, Submit(b),
// Await(a), … is legal, more than two unawaited tickets are not. Steps run in the order of Submit.
// Nothing that a ticket refers to (blocks, slots) may be freed or reused before its Await.
//
// On a device b is enqueued while a runs, so that nothing is idle between them, unless a has a row
// whose draw the host must see first: one with a penalty (its tokens are counted), with
// log-probabilities, or with a top_p over more candidates than the device sorts.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "worker/kv/kv_layout.h"
#include "worker/model/model_work.h"
#include "worker/model/step_batch.h"

namespace facet::worker {

using Ticket = int64_t;

struct ExecutorInfo {
  KvLayout kv;
  int32_t vocab = 0;
  int32_t context_tokens_max = 0;  // Positions the model was made for.
  int32_t running_max = 0;         // Slots.
  int32_t step_tokens_max = 0;     // Tokens of one step.
  std::string numerics_id;         // design.md 4
  ModelWork work;
};

// Is told of steps of a group to which this rank brings nothing but its device. Any thread.
class AssistObserver {
 public:
  virtual ~AssistObserver() = default;
  virtual void OnAssistBegins() = 0;
  // device_ns: what the device spent; 0 if the step came to nothing.
  virtual void OnAssistEnds(int64_t device_ns) = 0;
};

class Executor {
 public:
  virtual ~Executor() = default;

  // Constant from construction on.
  virtual const ExecutorInfo& info() const = 0;

  // Whom to tell from now on; null: nobody. After the return the last one is not called any more.
  virtual void SetAssistObserver(AssistObserver* /*observer*/) {}

  // Enqueues one step. The batch may be changed or destroyed after the call. One without rows is
  // for a rank of a group: it has part in a step of the others and brings its weight.
  virtual Ticket Submit(const StepBatch& batch) = 0;

  // Restricts what a row of a submitted step may sample: one bit per vocabulary id, 1 = allowed.
  // Due once for each row with awaits_mask; the step's sampling waits for it.
  virtual void ProvideMask(Ticket ticket, int32_t row, std::span<const uint32_t> mask) = 0;

  // Waits for the step's end; every ticket is awaited once, in order.
  virtual StepResult Await(Ticket ticket) = 0;
};

}  // namespace facet::worker
