// Activations of one step: views of buffers made once for the largest step.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "kernels/attention.h"
#include "kernels/backend.h"
#include "worker/model/gemma4_config.h"

namespace facet::worker {

// Owns the memory.
struct StepBuffers {
  using Allocate = std::function<kernels::Buffer(int64_t bytes)>;

  StepBuffers(const Gemma4Config& config,
              kernels::DType dtype,
              const Allocate& allocate,
              int32_t step_tokens_max);

  int32_t step_tokens_max;
  kernels::DType dtype;
  kernels::Buffer ids;           // [tokens], i32: what is embedded
  kernels::Buffer hidden;        // [tokens, hidden]
  kernels::Buffer branch;        // [tokens, hidden]: what attention or feed-forward adds
  kernels::Buffer qkv;           // [tokens, widest projection]
  kernels::Buffer attention;     // [tokens, widest heads]
  kernels::Buffer act;           // [tokens, widest intermediate]
  kernels::Buffer ple;           // [tokens, layers * ple_size]
  kernels::Buffer dense_in;      // [tokens, hidden]
  kernels::Buffer expert_in;     // [tokens, hidden]
  kernels::Buffer topk_ids;      // [tokens, top_k], i32
  kernels::Buffer topk_weights;  // [tokens, top_k], f32
  kernels::Buffer expert_act;    // [tokens, top_k, expert_intermediate]
  kernels::Buffer expert_out;    // [tokens, top_k, hidden]
};

// One step's views.
struct StepState {
  const StepBuffers& buffers;
  int64_t num_tokens = 0;
  kernels::AttentionBatch sliding_batch;
  kernels::AttentionBatch full_batch;
  kernels::TensorView hidden;
  kernels::TensorView branch;
  kernels::TensorView ple;

  kernels::TensorView View(const kernels::Buffer& buffer, int64_t width) const {
    return kernels::TensorView(buffer.data(), buffers.dtype, {num_tokens, width});
  }
};

}  // namespace facet::worker
