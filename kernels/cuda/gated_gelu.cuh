// The activation between up and down, and the product of gate and up that ends in it.
#pragma once

#include "kernels/approx.h"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/dtype.h"

namespace facet::kernels {

// round(round(gelu_tanh(round(gate))) * round(up)).
FACET_DEVICE Bf16 GatedGelu(float gate, float up) {
  return ToBf16(RoundToBf16(ApproxGelu(RoundToBf16(gate))) * RoundToBf16(up));
}

// An epilogue over gate and up; row is a token's, or what stands for one in out.
struct StoreGatedGelu {
  static constexpr int kMatrices = 2;
  static constexpr int kRowTilesMax = 4;

  Bf16* out = nullptr;
  int64_t stride = 0;

  FACET_DEVICE void Store(int row, int column, const float (&y)[2]) const {
    out[row * stride + column] = GatedGelu(y[0], y[1]);
  }
};

// Its instances are in mlp.cu, for all ops.
cudaError_t LaunchGatedGelu(const DenseWork<StoreGatedGelu>& work,
                            int num_sms,
                            cudaStream_t stream);

}  // namespace facet::kernels
