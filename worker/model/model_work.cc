#include "worker/model/model_work.h"

#include <algorithm>
#include <cmath>

namespace facet::worker {

Work ModelWork::OfRow(const StepRow& row) const {
  const double sliding = std::min(row.context, window);
  const auto of = [&](const Layers& layers) {
    return layers.flops_per_token + layers.flops_per_full_position * row.context +
           layers.flops_per_sliding_position * sliding;
  };
  const double logits = row.has_logits ? 1 : 0;
  // A row's last token sees about half a row more than the mean; each position is read once.
  const double last = row.context + (row.num_tokens - 1) / 2.0;
  return {.flops = row.num_tokens * of(kv_layers) + logits * (of(last_layers) + flops_per_logits),
          .bytes = kv_bytes_per_full_position * last +
                   kv_bytes_per_sliding_position * std::min(last, window + row.num_tokens - 1)};
}

double ModelWork::WeightBytes(int32_t num_tokens) const {
  return dense_bytes + expert_bytes * (1 - std::pow(1 - expert_share, num_tokens));
}

}  // namespace facet::worker
