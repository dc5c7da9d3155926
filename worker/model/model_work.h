// What a step asks of the device, from its shape: floating-point operations and bytes of device
// memory. For utilisation beside the device's peaks (MFU, MBU); nothing is measured here.
#pragma once

#include <cstdint>

#include "worker/model/step_row.h"

namespace facet::worker {

struct Work {
  double flops = 0;
  double bytes = 0;

  Work& operator+=(const Work& other) {
    flops += other.flops;
    bytes += other.bytes;
    return *this;
  }
};

// A model's constants. A multiply-add is two operations; norms, activations and RoPE are left out.
struct ModelWork {
  // Of a run of layers.
  struct Layers {
    double flops_per_token = 0;             // Matrices; of the experts those that a token chooses.
    double flops_per_full_position = 0;     // Attention: for each token and position that it sees.
    double flops_per_sliding_position = 0;  // The same, at most `window` positions.
  };

  Layers kv_layers;    // Up to the last that stores keys and values: for every token.
  Layers last_layers;  // The others: for tokens whose logits are wanted.
  double flops_per_logits = 0;
  double dense_bytes = 0;                 // Matrices that every step reads once.
  double expert_bytes = 0;                // All experts of all layers.
  double expert_share = 0;                // Of them, what one token chooses.
  double kv_bytes_per_full_position = 0;  // Read once for each row and position, over all layers.
  double kv_bytes_per_sliding_position = 0;
  double window = 0;

  // Without weights.
  Work OfRow(const StepRow& row) const;

  // Bytes of matrices that a step of so many tokens reads; of the experts as many as tokens reach
  // in the mean if each chooses at random.
  double WeightBytes(int32_t num_tokens) const;
};

}  // namespace facet::worker
