// From hidden states to tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/packed_weight.h"
#include "kernels/tensor_view.h"

namespace facet::kernels {

// Final norm, projection onto the vocabulary and soft-cap, for the rows that want logits:
//   x = round(RmsNorm(hidden[rows[r]])·norm_weight)
//   logits[r, v] = round(round(tanh(round(round(dot(x, weight[v])) / cap))) * cap)
//
// The rounding is to the dtype of hidden (three soft-cap steps, each rounded); the stored value is
// float32. The sum over hidden is float32, in the packed order of k whatever num_rows is. cap 0
// means none; num_rows may be 0. Traffic: weight once, logits once. Source: transformers 5.23.0,
// Gemma4ForConditionalGeneration; the norm multiplies by weight, not by 1 + weight.
struct HeadArgs {
  ConstTensorView hidden;       // [num_tokens, hidden], f32 or bf16
  ConstTensorView norm_weight;  // [hidden], dtype of hidden
  const PackedWeight& weight;   // [vocab, hidden], any format the backend packs
  ConstTensorView rows;         // [num_rows], i32, ascending
  TensorView logits;            // [num_rows, vocab], f32
  float eps = 0;
  float softcap = 0;
};

// How one row's next token is chosen. Steps in this order; each acts on what the one before left.
struct SampleRow {
  // 1 penalties and bias: over the tokens seen, as (id, times generated, in the prompt or output).
  struct Seen {
    int32_t id = 0;
    int32_t num_generated = 0;
  };

  struct Bias {
    int32_t id = 0;
    float value = 0;
  };

  int32_t logits_row = 0;
  std::span<const Seen> seen;  // Every id of prompt and output once; empty if no penalty is set.
  float presence_penalty = 0;
  float frequency_penalty = 0;
  float repetition_penalty = 1;
  std::span<const Bias> bias;
  std::span<const int32_t> barred;  // Ids that may not be chosen (stop tokens before the minimum).
  std::span<const uint32_t> mask;   // One bit per id, 1 = allowed; empty allows all.
  float temperature = 1;            // 2; 0: the largest logit, lowest id on ties.
  float min_p = 0;                  // 3
  int32_t top_k = 0;                // 4; 0 keeps all.
  float top_p = 1;                  // 5
  uint64_t seed = 0;
  uint32_t choice = 0;
  int64_t position = 0;      // Of the token to choose, in the sequence.
  int32_t num_logprobs = 0;  // 0: none; n: the chosen token and the n - 1 best.
  int32_t slot = -1;         // Whose last token this will be; -1: nobody's.
};

struct SampledToken {
  int32_t id = -1;     // -1 if the row held a value that is not finite.
  bool finite = true;  // All raw logits were.
  float logprob = 0;   // Of the raw logits; set if asked for.
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

// Gumbel-max over what the row's filters leave: argmax of logit / temperature + noise, where noise
// is a function of (seed, choice, position, vocabulary id) alone, so that no batching, preemption
// or resumption changes a token. Ties go to the lowest id. The polynomials of sampling_math.h are
// used instead of libm, so that equal logits give equal tokens on every backend.
//
// The draws are part of the step: StepInFlight::Wait gives the tokens. What a row draws also goes
// to last_tokens[slot], for the next step's Embed; a row that is not finite leaves its slot alone.
struct SampleArgs {
  ConstTensorView logits;  // [num_rows, vocab], f32
  std::span<const SampleRow> rows;
  TensorView last_tokens;  // [num_slots], i32; may be empty if no row has a slot
};

}  // namespace facet::kernels
