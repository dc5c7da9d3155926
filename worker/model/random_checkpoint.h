// A checkpoint that takes no disk and little memory, for benchmarks: every matrix is a window into
// one run of random numbers, so that packed copies differ in content and cost what real ones cost.
// The per-layer embedding table, read one row per token, is memory that is zero until it is
// written.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "worker/model/gemma4_config.h"
#include "worker/model/safetensors.h"

namespace facet::worker {

// bf16, in the layout that config calls for. Norms are 1, layer_scalar 0.5, so that logits stay
// finite. UNAVAILABLE if the memory cannot be mapped.
StatusOr<Checkpoint> MakeRandomCheckpoint(const Gemma4Config& config, uint64_t seed);

}  // namespace facet::worker
