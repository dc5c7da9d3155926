// Prefill attention by products of warpgroups (attention_wgmma.cu), as attention.cu calls it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/attention_work.cuh"

namespace facet::kernels::attention {

// Queries of one block; 0 if there is no kernel for this head size.
int32_t QueriesByWarpgroups(int head_dim);

// The part's entries are cut by as many queries, not side by side.
cudaError_t LaunchByWarpgroups(int head_dim,
                               const AttentionPart& part,
                               const AttendParams& params,
                               cudaStream_t stream);

}  // namespace facet::kernels::attention
