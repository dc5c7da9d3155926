// A Gemma 4 model's constants of work, from the shapes of its tensors.
#pragma once

#include "kernels/dtype.h"
#include "worker/model/gemma4_config.h"
#include "worker/model/model_work.h"

namespace facet::worker {

ModelWork WorkOf(const Gemma4Config& config, kernels::DType dtype);

}  // namespace facet::worker
