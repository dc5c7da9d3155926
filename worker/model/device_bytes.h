// How much memory of the device a model takes beside its KV cache, known before anything is loaded.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"
#include "worker/model/expert_share.h"
#include "worker/model/gemma4_config.h"

namespace facet::worker {

struct DeviceBytes {
  int64_t weights = 0;
  int64_t tables = 0;   // Of per-layer embeddings.
  int64_t buffers = 0;  // Of a step: estimated, for some grow with what steps bring.
};

// dtype is that of weights and activations.
DeviceBytes BytesNeeded(const Gemma4Config& config,
                        const ExpertShare& share,
                        kernels::DType dtype,
                        int32_t step_tokens_max,
                        int32_t running_max);

}  // namespace facet::worker
