// Served models for tests of the router, made without files.
#pragma once

#include <string>

#include "router/served_model.h"
#include "tests/support/small_tokenizer.h"

namespace facet::testing {

// A model with the small tokenizer, a context of 128 tokens and <turn|> as its stop token.
inline router::ServedModel SmallModel(const std::string& name = "m") {
  router::ServedModel model;
  model.name = name;
  model.config_digest = "c0";
  model.tokenizer_digest = "t0";
  model.tokenizer = SmallTokenizer();
  model.vocab = model.tokenizer->vocab_size();
  model.context_tokens_max = 128;
  model.stop_token_ids = {*model.tokenizer->IdOf("<turn|>")};
  v1::Sampling& defaults = model.sampling_defaults;
  defaults.set_temperature(1);
  defaults.set_top_k(64);
  defaults.set_top_p(0.95F);
  defaults.set_min_p(0);
  defaults.set_presence_penalty(0);
  defaults.set_frequency_penalty(0);
  defaults.set_repetition_penalty(1);
  return model;
}

}  // namespace facet::testing
