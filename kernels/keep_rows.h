// Rows of activations that go on when the others have ended.
#pragma once

#include "kernels/tensor_view.h"

namespace facet::kernels {

// out[i, :] = in[rows[i], :]. The two must not overlap.
//
// A prompt's tokens but the last have nothing to do in layers that only read keys and values: the
// model drops them there.
struct KeepRowsArgs {
  ConstTensorView in;    // [num_tokens, width], f32 or bf16
  ConstTensorView rows;  // [num_kept], i32, each in [0, num_tokens)
  TensorView out;        // [num_kept, width], dtype of in
};

}  // namespace facet::kernels
