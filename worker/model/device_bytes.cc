#include "worker/model/device_bytes.h"

#include "worker/model/expert_exchange.h"
#include "worker/model/step_state.h"
#include "worker/model/weights.h"

namespace facet::worker {

DeviceBytes BytesNeeded(const Gemma4Config& config,
                        const ExpertShare& share,
                        kernels::DType dtype,
                        int32_t step_tokens_max,
                        int32_t running_max) {
  DeviceBytes bytes;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    int64_t size = kernels::SizeOf(dtype);
    for (const int64_t dim : tensor.shape) size *= dim;
    if (tensor.experts) size /= share.num_ranks;
    const bool table = tensor.name.ends_with("embed_tokens_per_layer.weight");
    (table ? bytes.tables : bytes.weights) += size;
  }
  const auto count = [&](int64_t size) {
    bytes.buffers += size;
    return kernels::Buffer();
  };
  const StepBuffers counted(config, dtype, count, step_tokens_max);
  if (share.shared()) {
    const ExchangeBuffers exchanged(config, share, dtype, count, step_tokens_max);
  }
  // As much again between the launches of an op; logits, and logits with penalties.
  bytes.buffers *= 2;
  bytes.buffers += int64_t{2} * running_max * config.vocab * kernels::SizeOf(kernels::DType::kF32);
  return bytes;
}

}  // namespace facet::worker
