#include "worker/model/gemma4_work.h"

#include <charconv>

#include "worker/model/weights.h"

namespace facet::worker {
namespace {

// Of "...layers.17.mlp..."; -1 outside of layers.
int LayerOf(std::string_view name) {
  constexpr std::string_view kLayers = ".layers.";
  const size_t at = name.find(kLayers);
  if (at == std::string_view::npos) return -1;
  int layer = -1;
  std::from_chars(name.data() + at + kLayers.size(), name.data() + name.size(), layer);
  return layer;
}

}  // namespace

ModelWork WorkOf(const Gemma4Config& config, kernels::DType dtype) {
  const auto element = static_cast<double>(kernels::SizeOf(dtype));
  const double share =
      config.has_experts() ? static_cast<double>(config.top_k_experts) / config.num_experts : 0;
  ModelWork work{.expert_share = share, .window = static_cast<double>(config.window)};
  const auto layers_at = [&](int layer) -> ModelWork::Layers& {
    return layer < config.kv_layers_end() ? work.kv_layers : work.last_layers;
  };
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    // Rows of these two are looked up, not multiplied; the first is the head, too, if it is tied.
    if (tensor.shape.size() < 2 || tensor.name.ends_with("embed_tokens_per_layer.weight")) continue;
    if (!config.tied_head && tensor.name.ends_with("embed_tokens.weight")) continue;
    const auto elements = static_cast<double>(tensor.num_elements());
    const bool is_head =
        tensor.name.ends_with("embed_tokens.weight") || tensor.name.ends_with("lm_head.weight");
    const bool is_expert = tensor.name.find(".experts.") != std::string::npos;
    (is_expert ? work.expert_bytes : work.dense_bytes) += elements * element;
    if (is_head) {
      work.flops_per_logits += 2 * elements;
    } else {
      layers_at(LayerOf(tensor.name)).flops_per_token += 2 * elements * (is_expert ? share : 1);
    }
  }
  for (int i = 0; i < config.num_layers; ++i) {
    const LayerShape& layer = config.layers[i];
    ModelWork::Layers& layers = layers_at(i);
    const double flops = 4.0 * config.num_q_heads * layer.head_dim;  // QK and PV.
    const double bytes = 2.0 * layer.num_kv_heads * layer.head_dim * element;
    (layer.full ? layers.flops_per_full_position : layers.flops_per_sliding_position) += flops;
    (layer.full ? work.kv_bytes_per_full_position : work.kv_bytes_per_sliding_position) += bytes;
  }
  return work;
}

}  // namespace facet::worker
