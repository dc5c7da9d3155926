#include "worker/engine/batch_builder.h"

#include "worker/kv/kv_layout.h"

namespace facet::worker {
namespace {

SlotState SlotStateOf(const Sequence& seq) {
  SlotState state{
      .sampling = seq.request().sampling, .history = {}, .prompt_tokens = seq.num_prompt_tokens()};
  if (state.sampling.HasPenalty()) state.history = seq.tokens();
  return state;
}

}  // namespace

StepBatch BuildBatch(const StepPlan& plan, const BatchOptions& options) {
  StepBatch batch;
  batch.return_logits = options.return_logits;
  for (const PlannedChunk& chunk : plan.chunks()) {
    Sequence& seq = *chunk.sequence;
    BatchRow row{.slot = seq.slot,
                 .first_position = chunk.first,
                 .first_token = batch.num_tokens(),
                 .num_tokens = chunk.num_tokens,
                 .token_is_last_sample = chunk.first >= static_cast<int32_t>(seq.tokens().size()),
                 .logits = chunk.samples ? options.last_logits : options.prompt_logits,
                 .sample = chunk.samples};
    for (int32_t i = 0; i < chunk.num_tokens; ++i) {
      // The id of a pending token is the executor's to fill in.
      batch.token_ids.push_back(row.token_is_last_sample ? 0 : seq.tokens()[chunk.first + i]);
    }
    for (const KvGeometry geometry : kKvGeometries) {
      const int g = static_cast<int>(geometry);
      row.tables[g] = {.first_block = seq.blocks[g].first_block, .blocks = seq.blocks[g].blocks};
    }
    if (!seq.slot_state_sent) {
      row.slot_state = SlotStateOf(seq);
      seq.slot_state_sent = true;
    }
    row.history_hash = seq.history_hash();
    batch.rows.push_back(std::move(row));
  }
  return batch;
}

}  // namespace facet::worker
