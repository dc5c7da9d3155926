// Rows of the embedding tables.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/packed_weight.h"
#include "kernels/tensor_view.h"

namespace facet::kernels {

inline constexpr int kPlaceholdersMax = 8;

// Which token stands at each place, and its scaled row:
//   id = ids[t] ≥ 0 ? ids[t] : last_tokens[-ids[t] - 1];  a placeholder's id becomes pad_id
//   resolved_ids[t] = id;  hidden[t, :] = round(table[id, :] * scale)
//
// A negative entry, FedToken(slot), stands for what the step before drew for that slot, which the
// host may not have seen yet (Sample writes last_tokens). scale is sqrt(hidden) already rounded to
// the dtype of hidden: in a bf16 run the published models multiply by the bf16 value. Every id must
// be in [0, vocab). Traffic: one row per token. Source: transformers 5.23.0,
// Gemma4TextScaledWordEmbedding; gemma4_checked.md C10 for the placeholders.
struct EmbedArgs {
  ConstTensorView ids;                    // [num_tokens], i32
  ConstTensorView last_tokens;            // [num_slots], i32; may be empty if no entry is negative
  std::span<const int32_t> placeholders;  // At most kPlaceholdersMax.
  int32_t pad_id = 0;
  const PackedWeight& table;  // [vocab, hidden]: the same packed weight as the head's
  float scale = 1;
  TensorView resolved_ids;  // [num_tokens], i32
  TensorView hidden;        // [num_tokens, hidden], f32 or bf16
};

// The entry of ids for "what was last drawn for this slot".
constexpr int32_t FedToken(int32_t slot) { return -slot - 1; }

// What every layer's per-layer embedding gets, once per token before layer 0:
//   c = RmsNorm(round(round(W hidden) * context_scale)) over each layer's ple_size values
//   t = round(table[ids] * token_scale)
//   ple = round(round(c + t) * 2^-0.5)
//
// token_scale is sqrt(ple_size) rounded to the dtype of hidden; context_scale is not rounded. The
// table may be of another dtype than hidden (a mapped file) and is read one row per token.
// Source: transformers 5.23.0, Gemma4TextModel.project_per_layer_inputs.
struct PleInputsArgs {
  ConstTensorView ids;             // [num_tokens], i32, as Embed resolved them
  ConstTensorView table;           // [vocab_ple, num_layers * ple_size], f32 or bf16
  ConstTensorView hidden;          // [num_tokens, hidden], the scaled token embedding
  const PackedWeight& projection;  // [num_layers * ple_size, hidden]
  ConstTensorView norm_weight;     // [ple_size], dtype of hidden
  float token_scale = 1;
  float context_scale = 1;
  float eps = 0;
  TensorView ple;  // [num_tokens, num_layers * ple_size], dtype of hidden
};

}  // namespace facet::kernels
