// The activation between up and down: what every epilogue over gate and up stores.
#pragma once

#include "kernels/approx.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/dtype.h"

namespace facet::kernels {

// round(round(gelu_tanh(round(gate))) * round(up)).
FACET_DEVICE Bf16 GatedGelu(float gate, float up) {
  return ToBf16(RoundToBf16(ApproxGelu(RoundToBf16(gate))) * RoundToBf16(up));
}

}  // namespace facet::kernels
