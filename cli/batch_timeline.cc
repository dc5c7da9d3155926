#include "cli/batch_timeline.h"

#include <vector>

#include "worker/engine/charge.h"

namespace facet {

void BatchTimeline::Add(const worker::StepFrame& frame, int64_t now_ns) {
  const bool is_decode = num_started_ == num_requests_ && !any_ended_;
  int64_t num_tokens = 0;
  for (const worker::TokenDelta& delta : frame.deltas) {
    num_tokens += static_cast<int64_t>(delta.token_ids.size());
    if (delta.first_position == 0 && !delta.token_ids.empty()) ++num_started_;
    if (delta.finish != worker::FinishReason::kNone) any_ended_ = true;
  }
  if (num_tokens == 0) return;
  num_tokens_ += num_tokens;
  if (first_ns_ == 0) first_ns_ = now_ns;
  last_ns_ = now_ns;
  if (num_started_ == num_requests_ && all_started_ns_ == 0) all_started_ns_ = now_ns;
  if (is_decode) AddDecodeStep(frame, now_ns);
}

void BatchTimeline::AddDecodeStep(const worker::StepFrame& frame, int64_t now_ns) {
  std::vector<worker::StepRow> rows;
  for (const worker::TokenDelta& delta : frame.deltas) {
    if (delta.token_ids.empty()) continue;
    // The token before it was computed: after the prompt, the last of first_position.
    const int64_t position = num_prompt_tokens_ + delta.first_position - 1;
    rows.push_back({.is_decode = true,
                    .context = worker::StepRow::MeanContext(position, 1),
                    .has_logits = true});
  }
  decode_.ns = now_ns - all_started_ns_;
  ++decode_.num_steps;
  decode_.num_tokens += static_cast<int64_t>(rows.size());
  decode_.bytes += worker::WorkOf(rows, work_).decode.bytes;
}

}  // namespace facet
