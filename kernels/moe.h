// Mixture of experts beside a dense path, as every layer of 26B-A4B has it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/packed_weight.h"
#include "kernels/tensor_view.h"

namespace facet::kernels {

// The experts form this many slices (design.md 8): expert e of E is in slice ⌊8e/E⌋.
inline constexpr int kExpertSlices = 8;

inline int SliceOf(int expert, int num_experts) { return kExpertSlices * expert / num_experts; }

// Weights of one expert: gate, up [expert_intermediate, hidden], down [hidden,
// expert_intermediate].
struct ExpertWeights {
  PackedWeight gate;
  PackedWeight up;
  PackedWeight down;
};

// After attention, up to the choice of experts:
//   hidden = round(hidden + round(RmsNorm(attention_out)·post_attention_norm))
//   dense_in = round(RmsNorm(hidden)·pre_norm), expert_in = round(RmsNorm(hidden)·pre_norm_2)
//   z = round(round(round(RmsNorm(hidden)) * router_scale) * hidden_size^-0.5)
//   p = softmax(round(router z)) in float32 over all experts; the top_k largest (lower id on ties)
//   weight = p / sum of the chosen p * per_expert_scale, float32
// The router's logits are rounded to the model's dtype because the reference model does so: kept in
// float32, as kernels.md 3.1 would have it, they would now and then choose other experts than it.
// Source: transformers 5.23.0, Gemma4TextRouter; gemma4_checked.md C6.
struct NormRouterTopKArgs {
  TensorView hidden;                    // [num_tokens, hidden], f32 or bf16; updated
  ConstTensorView attention_out;        // [num_tokens, hidden]
  ConstTensorView post_attention_norm;  // [hidden]
  ConstTensorView pre_norm;             // [hidden], of the dense path
  ConstTensorView pre_norm_2;           // [hidden], of the experts
  ConstTensorView router_scale;         // [hidden]
  const PackedWeight& router;           // [num_experts, hidden]
  ConstTensorView per_expert_scale;     // [num_experts]
  float eps = 0;
  TensorView dense_in;      // [num_tokens, hidden]
  TensorView expert_in;     // [num_tokens, hidden]
  TensorView topk_ids;      // [num_tokens, top_k], i32, by falling probability
  TensorView topk_weights;  // [num_tokens, top_k], f32
};

// act[i, j] = round(round(gelu_tanh(round(gate_e x))) * round(up_e x)) for the j-th chosen expert e
// of row i on expert_in, unwritten where the id is -1 (no expert); dense_act alike on dense_in with
// the dense weights. Either part is absent where it has no rows; in a single process both have the
// step's tokens.
struct MoeUpArgs {
  ConstTensorView expert_in;  // [num_rows, hidden]
  ConstTensorView dense_in;   // [num_tokens, hidden]
  ConstTensorView topk_ids;   // [num_rows, top_k], i32: places in experts, or -1
  const std::vector<ExpertWeights>& experts;
  const PackedWeight& dense_gate;  // [intermediate, hidden]
  const PackedWeight& dense_up;    // [intermediate, hidden]
  TensorView act;                  // [num_rows, top_k, expert_intermediate]
  TensorView dense_act;            // [num_tokens, intermediate]
};

// out[i, j] = round(down_e act[i, j]); dense_out = round(down dense_act). Absent parts and experts
// as in MoeUp.
struct MoeDownArgs {
  ConstTensorView act;        // [num_rows, top_k, expert_intermediate]
  ConstTensorView dense_act;  // [num_tokens, intermediate]
  ConstTensorView topk_ids;   // [num_rows, top_k], i32
  const std::vector<ExpertWeights>& experts;
  const PackedWeight& dense_down;  // [hidden, intermediate]
  TensorView out;                  // [num_rows, top_k, hidden]
  TensorView dense_out;            // [num_tokens, hidden]
  // Whether the last MoeUp, in the same recording if there is one, had these topk_ids and experts
  // and nobody has written the ids since: what a backend made of them then still holds.
  bool after_up = false;
};

// The layer's end:
//   slice s = round(sum over its chosen experts, ascending id, of weight * out), float32 inside
//   b = round(sum of the slices, ascending)
//   m = round(round(RmsNorm(dense_out)·post_norm_1) + round(RmsNorm(b)·post_norm_2))
//   hidden = round(round(hidden + round(RmsNorm(m)·post_norm)) * layer_scalar)
struct MoeCombineArgs {
  TensorView hidden;             // [num_tokens, hidden]; updated
  ConstTensorView out;           // [num_tokens, top_k, hidden]
  ConstTensorView dense_out;     // [num_tokens, hidden]
  ConstTensorView topk_ids;      // [num_tokens, top_k], i32
  ConstTensorView topk_weights;  // [num_tokens, top_k], f32
  int num_experts = 0;
  ConstTensorView post_norm_1;  // [hidden]
  ConstTensorView post_norm_2;  // [hidden]
  ConstTensorView post_norm;    // [hidden]
  float layer_scalar = 1;
  float eps = 0;
};

}  // namespace facet::kernels
