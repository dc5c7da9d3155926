// Random weights in the published layout, for tests and benchmarks on machines without real ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/model/model_shape.h"
#include "worker/model/weights.h"

namespace facet {

inline constexpr int64_t kShardBytesMax = 5'000'000'000;

// One file of weights: whole tensors in order, at most `shard_bytes_max` of them; a larger tensor
// has a file of its own.
struct SynthShard {
  std::string file_name;
  std::vector<worker::ExpectedTensor> tensors;
  int64_t data_bytes = 0;
  std::string header;  // Padded to a multiple of 8, without the length before it.
};

struct SynthPlan {
  std::string config_json;
  std::vector<SynthShard> shards;
  std::string index_json;  // Empty where there is one shard.
  int64_t num_parameters = 0;
  int64_t bytes = 0;  // Of all files.
};

// What the files will hold; touches no disk.
StatusOr<SynthPlan> PlanSynth(const worker::ModelShape& shape,
                              int64_t shard_bytes_max = kShardBytesMax);

// Writes the plan to directory, which must be missing or empty, bfloat16. A value depends on seed,
// the tensor's name and its place, and nothing else. config.json comes last, so that what an
// interrupt leaves is not taken for a model. FAILED_PRECONDITION: the directory holds files.
// RESOURCE_EXHAUSTED: the disk has less than plan.bytes.
Status WriteSynth(const SynthPlan& plan, const std::string& directory, uint64_t seed);

}  // namespace facet
