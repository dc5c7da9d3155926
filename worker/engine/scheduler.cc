#include "worker/engine/scheduler.h"

#include <algorithm>

#include "base/math.h"

namespace facet::worker {
namespace {

constexpr int32_t kBlockTokens = kernels::kBlockTokens;

// The first position that a query at `first` sees in this geometry.
int32_t FirstVisible(const KvLayout::Geometry& geometry, int32_t first) {
  if (geometry.window == 0) return 0;
  return static_cast<int32_t>(std::max<int64_t>(0, first - geometry.window + 1));
}

// The longest sequence that an empty pool of this layout holds, computed in chunks of one block.
int32_t LongestAlone(const KvLayout& layout, int32_t context_tokens_max) {
  const KvLayout::Geometry& full = layout.of(KvGeometry::kFull);
  const KvLayout::Geometry& sliding = layout.of(KvGeometry::kSliding);
  int32_t low = 0;
  int32_t high = context_tokens_max;
  while (low < high) {
    const int32_t tokens = low + (high - low + 1) / 2;
    int32_t slabs = 0;
    if (full.blocks_per_slab > 0) {
      slabs += CeilDiv(CeilDiv(tokens, kBlockTokens), full.blocks_per_slab);
    }
    if (sliding.blocks_per_slab > 0) {
      const int64_t seen = std::min<int64_t>(tokens, sliding.window - 1 + kBlockTokens);
      const auto blocks = static_cast<int32_t>(CeilDiv<int64_t>(seen, kBlockTokens) + 1);
      slabs += CeilDiv(std::min(blocks, CeilDiv(tokens, kBlockTokens)), sliding.blocks_per_slab);
    }
    if (slabs <= layout.num_slabs) {
      low = tokens;
    } else {
      high = tokens - 1;
    }
  }
  return low;
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, const KvLayout& layout)
    : options_(options),
      blocks_(layout),
      context_tokens_max_(LongestAlone(layout, options.context_tokens_max)) {
  for (int32_t slot = options.running_max - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

Status Scheduler::Add(SequenceRequest request, int64_t now_ns) {
  const auto prompt = static_cast<int64_t>(request.prompt_ids.size());
  if (prompt + request.new_tokens_max > context_tokens_max_) {
    return InvalidArgument("new_tokens_max is ", request.new_tokens_max, "; at most ",
                           std::max<int64_t>(0, context_tokens_max_ - prompt),
                           " fit after a prompt of ", prompt);
  }
  if (num_waiting() + num_running() >= options_.running_max + options_.waiting_max) {
    return ResourceExhausted("the queue holds ", num_waiting(), " sequences; at most ",
                             options_.waiting_max, " may wait");
  }
  const Key key(request.session_id, request.request_id);
  if (sequences_.contains(key)) {
    return absl::AlreadyExistsError(StrCat("request_id ", request.request_id, " is in use"));
  }
  auto seq = std::make_unique<Sequence>(std::move(request), now_ns);
  seq->order = next_order_++;
  waiting_[seq->order] = seq.get();
  sequences_[key] = std::move(seq);
  return absl::OkStatus();
}

Sequence* Scheduler::Find(uint64_t session_id, const std::string& request_id) {
  const auto it = sequences_.find(Key(session_id, request_id));
  return it == sequences_.end() ? nullptr : it->second.get();
}

StepPlan Scheduler::Schedule(bool may_preempt) {
  StepPlan plan(options_.step_tokens_max);
  const int64_t preemptions_before = num_preemptions_;
  PlanRunning(plan, may_preempt);
  // Where blocks just ran out, admitting now would thrash.
  if (num_preemptions_ == preemptions_before) PlanWaiting(plan);
  FACET_DCHECK(plan.num_tokens() <= options_.step_tokens_max);
  return plan;
}

void Scheduler::PlanRunning(StepPlan& plan, bool may_preempt) {
  // Preemption takes from the end of the map, so that the iterator stays valid.
  for (auto it = running_.begin(); it != running_.end() && plan.tokens_left() > 0; ++it) {
    Sequence& seq = *it->second;
    if (seq.num_to_compute() == 0) continue;
    while (!TryPlan(seq, plan)) {
      if (!may_preempt) break;
      Sequence& youngest = *running_.rbegin()->second;
      const bool gave_up = &youngest == &seq;
      Preempt(youngest);
      if (gave_up) return;
    }
  }
}

void Scheduler::PlanWaiting(StepPlan& plan) {
  while (!waiting_.empty() && !free_slots_.empty() && plan.tokens_left() > 0) {
    Sequence& seq = *waiting_.begin()->second;
    if (!FitsWhole(seq)) return;  // First come, first served.
    waiting_.erase(waiting_.begin());
    running_[seq.order] = &seq;
    seq.state = SequenceState::kRunning;
    seq.slot = free_slots_.back();
    free_slots_.pop_back();
    FACET_CHECK(TryPlan(seq, plan));
  }
}

bool Scheduler::TryPlan(Sequence& seq, StepPlan& plan) {
  const int32_t wanted =
      std::min({seq.num_to_compute(), plan.tokens_left(), options_.chunk_tokens_max});
  const int32_t num_tokens = Extend(seq, wanted);
  if (num_tokens == 0) return false;
  PlannedChunk chunk{.sequence = &seq, .first = seq.num_computed, .num_tokens = num_tokens};
  chunk.samples = num_tokens == seq.num_to_compute();
  chunk.num_recomputed = std::min(num_tokens, seq.num_recomputed);
  seq.num_recomputed -= chunk.num_recomputed;
  chunk.num_replayed = std::min(num_tokens - chunk.num_recomputed, seq.num_replayed);
  seq.num_replayed -= chunk.num_replayed;
  plan.Add(chunk);
  seq.in_flight_firsts.push_back(seq.num_computed);
  seq.num_computed += num_tokens;
  if (chunk.samples) ++seq.num_pending;
  return true;
}

// Block by block in both geometries, so that neither kind takes what the other needs to go on.
int32_t Scheduler::Extend(Sequence& seq, int32_t wanted) {
  const int32_t end = seq.num_computed + wanted;
  int32_t covered = seq.num_computed;
  while (covered < end) {
    const int32_t next = std::min(end, (covered / kBlockTokens + 1) * kBlockTokens);
    for (const KvGeometry geometry : kKvGeometries) {
      if (!Cover(seq, geometry, next)) return covered - seq.num_computed;
    }
    covered = next;
  }
  return wanted;
}

bool Scheduler::Cover(Sequence& seq, KvGeometry geometry, int32_t end) {
  const KvLayout::Geometry& shape = blocks_.layout().of(geometry);
  if (shape.blocks_per_slab == 0) return true;
  SequenceBlocks& held = seq.blocks[static_cast<int>(geometry)];
  if (held.blocks.empty()) held.first_block = FirstVisible(shape, seq.num_computed) / kBlockTokens;
  while (held.end_block() * kBlockTokens < end) {
    const std::optional<int32_t> block = blocks_.TryAllocate(geometry);
    if (!block.has_value()) return false;
    held.blocks.push_back(*block);
  }
  return true;
}

bool Scheduler::FitsWhole(const Sequence& seq) const {
  const int32_t tokens = seq.num_tokens() + 1;
  const int32_t full = CeilDiv(tokens, kBlockTokens);
  const KvLayout::Geometry& sliding = blocks_.layout().of(KvGeometry::kSliding);
  const int32_t seen =
      static_cast<int32_t>(std::min<int64_t>(tokens, sliding.window - 1 + kBlockTokens));
  const int32_t sliding_blocks =
      sliding.blocks_per_slab == 0 ? 0 : std::min(full, CeilDiv(seen, kBlockTokens) + 1);
  const bool has_full = blocks_.layout().of(KvGeometry::kFull).blocks_per_slab > 0;
  return blocks_.CanAllocate(sliding_blocks, has_full ? full : 0);
}

void Scheduler::Preempt(Sequence& victim) {
  FACET_CHECK(victim.in_flight_firsts.empty());
  ++num_preemptions_;
  FreeBlocks(victim);
  free_slots_.push_back(victim.slot);
  victim.slot = -1;
  victim.slot_state_sent = false;
  victim.num_recomputed = std::max(victim.num_recomputed, victim.num_computed);
  victim.num_computed = 0;
  victim.state = SequenceState::kWaiting;
  running_.erase(victim.order);
  waiting_[victim.order] = &victim;
}

void Scheduler::OnStepDone(const StepPlan& plan) {
  for (const PlannedChunk& chunk : plan.chunks()) {
    Sequence& seq = *chunk.sequence;
    FACET_CHECK_EQ(seq.in_flight_firsts.front(), chunk.first);
    seq.in_flight_firsts.erase(seq.in_flight_firsts.begin());
    if (seq.state == SequenceState::kFinished) {
      if (seq.in_flight_firsts.empty()) Leave(seq);
      continue;
    }
    ReleaseBehind(seq,
                  seq.in_flight_firsts.empty() ? seq.num_computed : seq.in_flight_firsts.front());
  }
}

void Scheduler::ReleaseBehind(Sequence& seq, int32_t first_needed) {
  for (const KvGeometry geometry : kKvGeometries) {
    const KvLayout::Geometry& shape = blocks_.layout().of(geometry);
    SequenceBlocks& held = seq.blocks[static_cast<int>(geometry)];
    const int32_t keep_from = FirstVisible(shape, first_needed) / kBlockTokens;
    const int32_t num_behind =
        std::clamp(keep_from - held.first_block, 0, static_cast<int32_t>(held.blocks.size()));
    for (int32_t i = 0; i < num_behind; ++i) blocks_.Free(geometry, held.blocks[i]);
    held.blocks.erase(held.blocks.begin(), held.blocks.begin() + num_behind);
    held.first_block += num_behind;
  }
}

void Scheduler::Finish(Sequence& seq, FinishReason reason) {
  if (seq.state == SequenceState::kFinished) return;
  waiting_.erase(seq.order);
  running_.erase(seq.order);
  seq.state = SequenceState::kFinished;
  seq.finish = reason;
  if (seq.in_flight_firsts.empty()) Leave(seq);
}

void Scheduler::Leave(Sequence& seq) {
  FreeBlocks(seq);
  if (seq.slot >= 0) free_slots_.push_back(seq.slot);
  seq.slot = -1;
  const auto it = sequences_.find(Key(seq.request().session_id, seq.id()));
  finished_.push_back(std::move(it->second));
  sequences_.erase(it);
}

void Scheduler::FreeBlocks(Sequence& seq) {
  for (const KvGeometry geometry : kKvGeometries) {
    SequenceBlocks& held = seq.blocks[static_cast<int>(geometry)];
    for (const int32_t block : held.blocks) blocks_.Free(geometry, block);
    held = SequenceBlocks{};
  }
}

std::vector<std::unique_ptr<Sequence>> Scheduler::TakeFinished() {
  return std::exchange(finished_, {});
}

int64_t Scheduler::prefill_tokens_waiting() const {
  int64_t tokens = 0;
  for (const auto& [order, seq] : waiting_) tokens += seq->num_to_compute();
  for (const auto& [order, seq] : running_) {
    if (seq->num_to_compute() > 1) tokens += seq->num_to_compute();
  }
  return tokens;
}

std::vector<StepRow> Scheduler::DecodeRows() const {
  std::vector<StepRow> rows;
  for (const auto& [order, seq] : running_) {
    rows.push_back({.is_decode = true, .context = StepRow::MeanContext(seq->num_tokens(), 1)});
  }
  return rows;
}

std::vector<Sequence*> Scheduler::Alive() {
  std::vector<Sequence*> alive;
  for (const auto& [order, seq] : waiting_) alive.push_back(seq);
  for (const auto& [order, seq] : running_) alive.push_back(seq);
  return alive;
}

}  // namespace facet::worker
