// What the router has of one served model: the text side of its directory, read once at start and
// immutable after.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "facet/v1/config.pb.h"
#include "facet/v1/inference.pb.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace facet::router {

struct ServedModel {
  std::string name;
  std::string config_digest;            // SHA-256 of config.json, hex.
  std::string tokenizer_digest;         // SHA-256 of tokenizer.json, hex; empty without one.
  int32_t vocab = 0;                    // Rows of the logits.
  int32_t context_tokens_max = 0;       // Of config.json: max_position_embeddings.
  std::vector<int32_t> stop_token_ids;  // eos_token_id of generation_config.json or config.json.
  v1::Sampling sampling_defaults;       // Every scalar is set.
  std::optional<Tokenizer> tokenizer;   // Absent: only prompts of token ids can be served.
  TemplateVariant template_variant = TemplateVariant::kSmall;

  // Reads config.json, generation_config.json and tokenizer.json of config.directory(); the last
  // two may be absent. The error names the file.
  static StatusOr<ServedModel> Load(const v1::ModelConfig& config);
};

}  // namespace facet::router
