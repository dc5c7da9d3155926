// Which experts of every layer a rank holds. They form 8 slices, expert e of E in slice ⌊8e/E⌋, and
// rank r of G holds slices [8r/G, 8(r+1)/G) (design.md 8): whole slices, so that sums do not depend
// on G.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "worker/model/gemma4_config.h"

namespace facet::worker {

// One process with all experts, unless told otherwise. The members need a share that was checked.
struct ExpertShare {
  int32_t rank = 0;
  int32_t num_ranks = 1;

  bool shared() const { return num_ranks > 1; }

  int32_t num_experts(const Gemma4Config& config) const { return config.num_experts / num_ranks; }

  int32_t first_expert(const Gemma4Config& config) const { return rank * num_experts(config); }
};

// INVALID_ARGUMENT unless num_ranks is 1, 2, 4 or 8, rank is one of them, and the model's experts
// make 8 slices of equal size.
Status CheckExpertShare(const ExpertShare& share, const Gemma4Config& config);

}  // namespace facet::worker
