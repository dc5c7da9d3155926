// How one sequence's tokens are chosen: complete and checked, every field in force as it stands.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace facet::worker {

struct SamplingParams {
  float temperature = 1;  // [0, 2]; 0 is greedy.
  int32_t top_k = 0;      // 0: all.
  float top_p = 1;        // (0, 1]; 1: all.
  float min_p = 0;        // [0, 1]; 0: all.
  uint64_t seed = 0;
  uint32_t choice = 0;
  float presence_penalty = 0;    // [-2, 2]
  float frequency_penalty = 0;   // [-2, 2]
  float repetition_penalty = 1;  // (0, 2]
  std::vector<std::pair<int32_t, float>> logit_bias;
  // Ids that may not be chosen while fewer than new_tokens_min tokens are generated.
  std::vector<int32_t> barred_before_min;
  int32_t new_tokens_min = 0;
  int32_t num_logprobs = 0;  // 0: none; n: the chosen token and the n - 1 best.

  bool HasPenalty() const {
    return presence_penalty != 0 || frequency_penalty != 0 || repetition_penalty != 1;
  }
};

}  // namespace facet::worker
