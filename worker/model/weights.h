// A Gemma 4 checkpoint on the device: names, shapes and dtypes are checked before anything is
// allocated, then packed tensor by tensor. Files stay mapped for the per-layer embedding table,
// which is read one row per token. Source of the names: reference transformers 5.23.0,
// modeling_gemma4.py.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/backend.h"
#include "worker/model/expert_share.h"
#include "worker/model/gemma4_config.h"
#include "worker/model/safetensors.h"

namespace facet::worker {

// A vector in device memory, in the dtype of the activations.
struct DeviceVector {
  kernels::Buffer buffer;
  kernels::ConstTensorView view;
};

struct LayerWeights {
  DeviceVector input_norm;
  DeviceVector post_attention_norm;
  DeviceVector pre_feedforward_norm;
  DeviceVector post_feedforward_norm;
  float layer_scalar = 1;

  kernels::PackedWeight q;
  kernels::PackedWeight k;  // Empty where KV is shared.
  kernels::PackedWeight v;  // Empty where KV is shared or K=V.
  kernels::PackedWeight o;
  DeviceVector q_norm;
  DeviceVector k_norm;  // Empty where KV is shared.

  kernels::PackedWeight gate;
  kernels::PackedWeight up;
  kernels::PackedWeight down;

  // Per-layer embeddings.
  kernels::PackedWeight ple_gate;
  kernels::PackedWeight ple_projection;
  DeviceVector ple_norm;

  // Experts.
  kernels::PackedWeight router;
  DeviceVector router_scale;
  DeviceVector per_expert_scale;
  DeviceVector pre_feedforward_norm_2;
  DeviceVector post_feedforward_norm_1;
  DeviceVector post_feedforward_norm_2;
  std::vector<kernels::ExpertWeights> experts;  // Those of this rank.
};

struct Gemma4Weights {
  Checkpoint checkpoint;  // Keeps ple_table mapped.
  kernels::PackedWeight embedding;
  kernels::PackedWeight head;  // Empty: the embedding is the head.
  DeviceVector final_norm;
  kernels::HostTable ple_table;  // [vocab_ple, num_layers * ple_size], as stored
  kernels::PackedWeight ple_model_projection;
  DeviceVector ple_projection_norm;
  std::vector<LayerWeights> layers;

  int64_t bytes_read = 0;  // Of the files, by this rank.

  const kernels::PackedWeight& head_weight() const { return head.empty() ? embedding : head; }
};

// A tensor that the config calls for.
struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
  bool experts = false;  // [num_experts, …]: a rank reads its own alone.

  int64_t num_elements() const {
    int64_t elements = 1;
    for (const int64_t size : shape) elements *= size;
    return elements;
  }
};

// Everything that must be stored, in the order of loading.
std::vector<ExpectedTensor> ExpectedTensors(const Gemma4Config& config);

// Missing tensors, wrong shapes and dtypes that are not served, by name. Nothing is read.
Status CheckTensors(const Gemma4Config& config, const Checkpoint& checkpoint);

// Called after each tensor with bytes done and in all.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

// Activations and packed weights in dtype (f32 or bf16), whatever the files hold. Of the experts
// those of share, a checked one. Errors do not name the directory: the caller does.
StatusOr<Gemma4Weights> LoadGemma4Weights(Checkpoint checkpoint,
                                          const Gemma4Config& config,
                                          const ExpertShare& share,
                                          kernels::DType dtype,
                                          kernels::Backend& backend,
                                          const LoadProgress& progress);

}  // namespace facet::worker
