// Chooses the work of one step and books it: queues, slots and blocks. No clock, no I/O, no device.
//
// It owns the sequences and the block pool. A sequence waits in order of arrival, runs in a slot,
// and leaves once it is finished and no step in flight holds it. When blocks run out, the youngest
// running sequence is preempted: its blocks are freed, its tokens kept, and it waits again at its
// old place.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "worker/engine/sequence.h"
#include "worker/engine/step_plan.h"
#include "worker/kv/block_pool.h"
#include "worker/model/step_row.h"

namespace facet::worker {

struct SchedulerOptions {
  int32_t running_max = 64;
  int32_t waiting_max = 16;
  int32_t step_tokens_max = 512;
  int32_t chunk_tokens_max = 512;  // Of one sequence's part in a step.
  int32_t context_tokens_max = 0;  // Prompt and output of one sequence.
};

class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, const KvLayout& layout);

  const SchedulerOptions& options() const { return options_; }

  const BlockPool& blocks() const { return blocks_; }

  // The longest sequence that the pool could hold alone, at most context_tokens_max.
  int32_t context_tokens_max() const { return context_tokens_max_; }

  // INVALID_ARGUMENT: longer than any sequence may be. RESOURCE_EXHAUSTED: the queue is full.
  // ALREADY_EXISTS: the request id is taken on this session.
  Status Add(SequenceRequest request, int64_t now_ns);

  // Null if there is none.
  Sequence* Find(uint64_t session_id, const std::string& request_id);

  // Running sequences get their next token before any waiting prompt gets a chunk, so a long prompt
  // lengthens the ITL of the others by one step's token budget at most. may_preempt says that no
  // step is in flight; without it a sequence that lacks blocks waits for the step in flight to end.
  StepPlan Schedule(bool may_preempt);

  // The step that this plan described has ended and its tokens are appended: blocks behind the
  // window are released, finished sequences that nothing holds any more leave.
  void OnStepDone(const StepPlan& plan);

  // Nothing more is computed for it; it leaves now or once the steps in flight are done.
  void Finish(Sequence& seq, FinishReason reason);

  // Sequences that finished and whose blocks are free; the caller takes them.
  std::vector<std::unique_ptr<Sequence>> TakeFinished();

  // Finished ones that steps in flight still hold are not counted.
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }

  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }

  // Tokens of waiting and running sequences whose prompt is not computed yet.
  int64_t prefill_tokens_waiting() const;

  // Those of a step in which every running sequence decodes.
  std::vector<StepRow> DecodeRows() const;

  int64_t num_preemptions() const { return num_preemptions_; }

  // Every sequence that is waiting or running.
  std::vector<Sequence*> Alive();

 private:
  using Key = std::pair<uint64_t, std::string>;

  void PlanRunning(StepPlan& plan, bool may_preempt);
  void PlanWaiting(StepPlan& plan);
  // Adds as much of the sequence's work as budget and blocks allow; false if blocks are lacking.
  bool TryPlan(Sequence& seq, StepPlan& plan);
  // Gives the sequence blocks for tokens [num_computed, num_computed + wanted); returns how many of
  // them fit.
  int32_t Extend(Sequence& seq, int32_t wanted);
  // Gives the sequence blocks of one geometry up to token end; false if one is lacking.
  bool Cover(Sequence& seq, KvGeometry geometry, int32_t end);
  bool FitsWhole(const Sequence& seq) const;
  // Frees its blocks and slot; it waits again at its place of arrival.
  void Preempt(Sequence& victim);
  void ReleaseBehind(Sequence& seq, int32_t first_needed);
  void FreeBlocks(Sequence& seq);
  void Leave(Sequence& seq);

  const SchedulerOptions options_;
  BlockPool blocks_;
  int32_t context_tokens_max_ = 0;
  std::map<Key, std::unique_ptr<Sequence>> sequences_;
  std::map<int64_t, Sequence*> waiting_;  // By order of arrival.
  std::map<int64_t, Sequence*> running_;  // By order of arrival.
  int64_t next_order_ = 0;
  std::vector<int32_t> free_slots_;
  std::vector<std::unique_ptr<Sequence>> finished_;
  int64_t num_preemptions_ = 0;
};

}  // namespace facet::worker
