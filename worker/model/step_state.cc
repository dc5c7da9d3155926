#include "worker/model/step_state.h"

#include <algorithm>

namespace facet::worker {

StepBuffers::StepBuffers(const Gemma4Config& config,
                         kernels::DType activations,
                         const Allocate& allocate_bytes,
                         int32_t tokens_max)
    : step_tokens_max(tokens_max), dtype(activations) {
  int64_t qkv_width = 0;
  int64_t heads_width = 0;
  int64_t intermediate = 0;
  for (const LayerShape& layer : config.layers) {
    const int64_t q = static_cast<int64_t>(config.num_q_heads) * layer.head_dim;
    const int64_t kv = static_cast<int64_t>(layer.num_kv_heads) * layer.head_dim;
    qkv_width = std::max(qkv_width, q + 2 * kv);
    heads_width = std::max(heads_width, q);
    intermediate = std::max<int64_t>(intermediate, layer.intermediate);
  }
  const auto allocate = [&](int64_t width, int64_t element_bytes) {
    return allocate_bytes(tokens_max * width * element_bytes);
  };
  const int64_t element = kernels::SizeOf(dtype);
  ids = allocate(1, kernels::SizeOf(kernels::DType::kI32));
  hidden = allocate(config.hidden, element);
  branch = allocate(config.hidden, element);
  qkv = allocate(qkv_width, element);
  attention = allocate(heads_width, element);
  act = allocate(intermediate, element);
  if (config.has_ple()) {
    ple = allocate(static_cast<int64_t>(config.num_layers) * config.ple_size, element);
  }
  if (config.has_experts()) {
    dense_in = allocate(config.hidden, element);
    expert_in = allocate(config.hidden, element);
    topk_ids = allocate(config.top_k_experts, 4);
    topk_weights = allocate(config.top_k_experts, 4);
    expert_act =
        allocate(static_cast<int64_t>(config.top_k_experts) * config.expert_intermediate, element);
    expert_out = allocate(static_cast<int64_t>(config.top_k_experts) * config.hidden, element);
  }
}

}  // namespace facet::worker
