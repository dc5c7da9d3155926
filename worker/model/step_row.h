// One sequence's part of a step, by its shape alone.
#pragma once

#include <cstdint>

namespace facet::worker {

struct StepRow {
  bool is_decode = false;  // Else num_tokens of prefill.
  int32_t num_tokens = 1;
  double context = 0;       // Positions that a token sees, on average over the row's.
  bool has_logits = false;  // Of its last token.

  // What tokens that follow each other from position `first` on see on average.
  static double MeanContext(int64_t first, int32_t num_tokens) {
    return static_cast<double>(first) + (num_tokens + 1) / 2.0;
  }
};

}  // namespace facet::worker
