// One row's draw on the host: what the CPU peers do for every row, and a device's peer for rows
// that it does not filter itself.
#pragma once

#include <cstdint>

#include "kernels/head.h"

namespace facet::kernels {

// logits is [vocab]; scratch has room for as many.
SampledToken SampleOnHost(const SampleRow& row, const float* logits, int64_t vocab, float* scratch);

}  // namespace facet::kernels
