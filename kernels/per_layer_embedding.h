// Injection of the per-layer embedding: the end of every layer of E2B and E4B.
#pragma once

#include "kernels/packed_weight.h"
#include "kernels/tensor_view.h"

namespace facet::kernels {

// hidden = round(hidden + round(RmsNorm(ffn_out)·post_feedforward_norm))
// g = round(round(gelu_tanh(round(gate hidden))) * ple[t, layer])
// hidden = round(hidden + round(RmsNorm(round(projection g))·post_norm))
// hidden = round(hidden * layer_scalar)
//
// The gate reads the residual stream as it is, without a norm.
// Source: transformers 5.23.0, Gemma4TextDecoderLayer.
struct PleInjectArgs {
  TensorView hidden;                      // [num_tokens, hidden], f32 or bf16; updated
  ConstTensorView ffn_out;                // [num_tokens, hidden]
  ConstTensorView post_feedforward_norm;  // [hidden]
  const PackedWeight& gate;               // [ple_size, hidden]
  ConstTensorView ple;                    // [num_tokens, num_layers * ple_size]
  int layer = 0;                          // Which ple_size columns of ple.
  const PackedWeight& projection;         // [hidden, ple_size]
  ConstTensorView post_norm;              // [hidden]
  float layer_scalar = 1;
  float eps = 0;
};

}  // namespace facet::kernels
