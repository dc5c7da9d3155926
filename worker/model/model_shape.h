// The shapes of the published Gemma 4 models, as config.json says them, and smaller ones after
// them. Source: config.json of google/gemma-4-{E2B,E4B,26B-A4B,31B}-it; text part only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace facet::worker {

struct ModelShape {
  std::string name;  // "e2b", "e4b", "26b" or "31b".
  int32_t num_layers = 0;
  int32_t full_every = 0;  // Each so-many-th layer attends fully; the last always does.
  int32_t hidden = 0;
  int32_t intermediate = 0;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t num_global_kv_heads = 0;  // 0: as num_kv_heads.
  int32_t head_dim = 256;
  int32_t global_head_dim = 512;
  int32_t window = 0;
  int32_t num_shared = 0;  // Last layers that read the keys and values of others.
  int32_t ple_size = 0;    // 0: no per-layer embeddings.
  int32_t num_experts = 0;
  int32_t top_k_experts = 0;
  int32_t expert_intermediate = 0;
  int32_t context_tokens_max = 0;
  int32_t vocab = 262144;
  bool double_wide = false;  // Layers that share KV have twice the intermediate size.
  bool k_eq_v = false;       // Of full layers: V is the raw K projection.

  // Sliding or full, by layer.
  std::vector<bool> FullLayers() const;
};

// INVALID_ARGUMENT lists the names.
StatusOr<ModelShape> PublishedShape(std::string_view name);

// The same with fewer layers: shared layers in proportion, but so many fewer that a sliding and a
// full layer before them own keys and values. num_layers is from 2 to the shape's own.
StatusOr<ModelShape> WithLayers(const ModelShape& shape, int32_t num_layers);

// config.json and generation_config.json in the published, nested layout.
std::string ConfigJson(const ModelShape& shape);
std::string GenerationConfigJson();

}  // namespace facet::worker
