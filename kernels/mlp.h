// The dense feed-forward of one layer.
#pragma once

#include "kernels/packed_weight.h"
#include "kernels/tensor_view.h"

namespace facet::kernels {

// After attention, up to the activation:
//   hidden = round(hidden + round(RmsNorm(attention_out)·post_attention_norm))
//   x = round(RmsNorm(hidden)·pre_feedforward_norm)
//   act = round(round(gelu_tanh(round(gate x))) * round(up x))
// Source: transformers 5.23.0, Gemma4TextDecoderLayer, Gemma4TextMLP.
struct NormGateUpArgs {
  TensorView hidden;                     // [num_tokens, hidden], f32 or bf16; updated
  ConstTensorView attention_out;         // [num_tokens, hidden]
  ConstTensorView post_attention_norm;   // [hidden]
  ConstTensorView pre_feedforward_norm;  // [hidden]
  float eps = 0;
  const PackedWeight& gate;  // [intermediate, hidden]
  const PackedWeight& up;    // [intermediate, hidden]
  TensorView act;            // [num_tokens, intermediate]
};

// out = round(W act). Where nothing else follows in the layer (neither experts nor per-layer
// embeddings), finish_hidden is given and the layer ends here:
//   hidden = round(round(hidden + round(RmsNorm(out)·post_feedforward_norm)) * layer_scalar)
struct MlpDownArgs {
  ConstTensorView act;                    // [num_tokens, intermediate]
  const PackedWeight& weight;             // [hidden, intermediate]
  TensorView out;                         // [num_tokens, hidden]
  TensorView finish_hidden;               // [num_tokens, hidden] or empty
  ConstTensorView post_feedforward_norm;  // [hidden], with finish_hidden
  float layer_scalar = 1;
  float eps = 0;
};

}  // namespace facet::kernels
