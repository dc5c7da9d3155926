// The model: token ids in, hidden states through every layer, logits out. gemma4.cc is the layer
// loop that a reader can hold against transformers' modeling_gemma4.py; what a layer does is in
// {attention,mlp,moe,per_layer_embedding}.cc beside it.
//
// It keeps no state between calls but its scratch: keys and values live in the KvCache that a call
// names. One thread drives it, the one that drives its backend.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/backend.h"
#include "worker/kv/kv_cache.h"
#include "worker/model/expert_exchange.h"
#include "worker/model/gemma4_config.h"
#include "worker/model/step_state.h"
#include "worker/model/weights.h"

namespace facet::worker {

// The tokens of one step; block ids are turned into offsets. What the spans name must live until
// the backend's EndStep.
struct ForwardInput {
  std::span<const int32_t> ids;          // As Embed takes them: FedToken(slot) is one, too.
  kernels::ConstTensorView last_tokens;  // [num_slots], i32
  // The same rows for each geometry; only the block tables differ.
  std::span<const kernels::AttentionRow> sliding_rows;
  std::span<const kernels::AttentionRow> full_rows;
  std::span<const int32_t> logits_rows;  // Tokens that want logits, ascending.
  // Of a rank that shares experts: in a step that it has begun, with room for these tokens.
  ExpertExchange* exchange = nullptr;
};

// Those tokens of a step that want logits, as a step of their own (gemma4.cc).
struct WantedTokens;

class Gemma4 {
 public:
  // The backend must outlive the model. dtype is that of the weights.
  Gemma4(const Gemma4Config& config,
         Gemma4Weights weights,
         kernels::DType dtype,
         kernels::Backend& backend,
         int32_t step_tokens_max);

  const Gemma4Config& config() const { return config_; }

  // What each layer stores of a token, for the KV cache.
  static std::vector<KvLayerShape> KvShapes(const Gemma4Config& config, kernels::DType dtype);

  // Runs every layer over at most step_tokens_max tokens, inside a step of the backend. Returns
  // [logits_rows, vocab], f32, valid until the next call. Behind the last layer that stores keys
  // and values only the tokens that want logits go on (of E4B's 42 layers a prompt's other tokens
  // see 24): their bits are those of the full pass. Source: transformers 5.23.0,
  // Gemma4TextModel._maybe_slice_kv_shared_inputs. Ranks that share experts run all layers for all
  // tokens, and launch what others replay. Errors are the exchange's: keys and values of the step
  // are then not to be used, and the next call is as good as any.
  StatusOr<kernels::ConstTensorView> Forward(const ForwardInput& input, const KvCache& kv);

  // A rank's part in a step in which it has no tokens: its experts serve the others'.
  Status ServeExperts(ExpertExchange& exchange);

 private:
  // What the layers of one geometry share; none is left out where there are no such layers.
  kernels::AttentionShape AttentionShapeOf(bool full) const;
  // [num_rows, vocab], f32; moves when it grows.
  kernels::TensorView LogitsFor(int64_t num_rows);

  void Embed(const kernels::ConstTensorView& ids,
             const kernels::ConstTensorView& last_tokens,
             StepState& state);
  void KeepWanted(const WantedTokens& wanted, StepState& state);
  Status Layer(int32_t i, ExpertExchange* exchange, StepState& state, const KvCache& kv);
  void Head(const kernels::ConstTensorView& rows,
            const StepState& state,
            const kernels::TensorView& logits);

  const Gemma4Config config_;
  const Gemma4Weights weights_;
  const kernels::DType dtype_;
  kernels::Backend& backend_;
  StepBuffers buffers_;
  DeviceVector sliding_inv_freq_;
  DeviceVector full_inv_freq_;
  kernels::Buffer wanted_ple_;
  kernels::Buffer logits_;
};

}  // namespace facet::worker
