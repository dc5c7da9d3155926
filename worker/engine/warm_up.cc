#include "worker/engine/warm_up.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "base/log.h"
#include "base/math.h"
#include "worker/kv/block_pool.h"

namespace facet::worker {
namespace {

constexpr int64_t kWarmUpNsMax = 1'000'000'000;
constexpr int kRunsMax = 3;
constexpr int64_t kSlowNs = 50'000'000;  // Noise is small beside it: timed once.

// One decode batch, or one prefill chunk (num_rows is 1).
struct Shape {
  int32_t num_rows = 1;
  int32_t num_tokens = 1;  // Of a row.
  int32_t first = 0;       // Position of a row's first token; keys and values of what is before are
                           // zeros, which take as long as any.
  bool is_decode = false;

  int32_t end() const { return first + num_tokens; }

  // Grows about as its time does.
  double work() const { return num_rows * num_tokens * (1 + first / 2048.0); }
};

std::vector<Shape> ShapesOf(const ExecutorInfo& info, int32_t context_tokens_max) {
  std::vector<Shape> shapes;
  for (const int32_t first : {0, 512, 2048, 8192}) {
    for (const int32_t rows : std::set<int32_t>{1, 4, 16, info.running_max}) {
      shapes.push_back({.num_rows = rows, .first = first, .is_decode = true});
    }
    for (const int32_t tokens : std::set<int32_t>{16, 64, 256, info.step_tokens_max}) {
      shapes.push_back({.num_tokens = tokens, .first = first});
    }
  }
  std::erase_if(shapes, [&](const Shape& shape) {
    return shape.num_rows > info.running_max ||
           shape.num_rows * shape.num_tokens > info.step_tokens_max ||
           shape.end() > context_tokens_max;
  });
  std::stable_sort(shapes.begin(), shapes.end(),
                   [](const Shape& a, const Shape& b) { return a.work() < b.work(); });
  return shapes;
}

// The blocks that a row reads and writes; nothing if the pool lacks them.
std::optional<BlockTable> TableOf(const Shape& shape, KvGeometry geometry, BlockPool& pool) {
  const KvLayout::Geometry& layout = pool.layout().of(geometry);
  BlockTable table;
  if (layout.blocks_per_slab == 0) return table;
  const int64_t seen_from =
      layout.window == 0 ? 0 : std::max<int64_t>(0, shape.first - layout.window + 1);
  table.first_block = static_cast<int32_t>(seen_from) / kernels::kBlockTokens;
  for (int32_t b = table.first_block; b < CeilDiv(shape.end(), kernels::kBlockTokens); ++b) {
    const std::optional<int32_t> block = pool.TryAllocate(geometry);
    if (!block) return std::nullopt;
    table.blocks.push_back(*block);
  }
  return table;
}

// Nothing if the KV cache is too small.
std::optional<StepBatch> BatchOf(const Shape& shape, const ExecutorInfo& info) {
  BlockPool pool(info.kv);
  StepBatch batch;
  for (int32_t i = 0; i < shape.num_rows; ++i) {
    BatchRow row{.slot = i,
                 .first_position = shape.first,
                 .first_token = batch.num_tokens(),
                 .num_tokens = shape.num_tokens,
                 .slot_state = SlotState{.sampling = {.temperature = 0}}};
    for (const KvGeometry geometry : kKvGeometries) {
      std::optional<BlockTable> table = TableOf(shape, geometry, pool);
      if (!table) return std::nullopt;
      row.tables[static_cast<int>(geometry)] = *std::move(table);
    }
    // Other tokens choose other experts.
    for (int32_t t = 0; t < shape.num_tokens; ++t) {
      batch.token_ids.push_back((batch.num_tokens() + 1) * 7919 % info.vocab);
    }
    batch.rows.push_back(std::move(row));
  }
  return batch;
}

StepSample SampleOf(const Shape& shape, int64_t device_ns) {
  const StepRow row = {.is_decode = shape.is_decode,
                       .num_tokens = shape.num_tokens,
                       .context = StepRow::MeanContext(shape.first, shape.num_tokens)};
  return {.rows = std::vector<StepRow>(shape.num_rows, row), .device_ns = device_ns};
}

// What a step takes; of ranks, what it takes them in the mean.
StatusOr<int64_t> TimeStep(Executor& executor, const StepBatch& batch) {
  const StepResult result = executor.Await(executor.Submit(batch));
  FACET_RETURN_IF_ERROR(result.status);
  if (result.num_ranks <= 1) return result.device_ns;
  FACET_ASSIGN_OR_RETURN(const int64_t sum, SumOfRanks(executor, result.device_ns));
  return sum / result.num_ranks;
}

}  // namespace

StatusOr<std::vector<StepSample>> TimeSteps(Executor& executor,
                                            int32_t context_tokens_max,
                                            int64_t device_ns_max) {
  std::vector<StepSample> samples;
  int64_t taken_ns = 0;
  double ns_per_work = 0;  // Of the step before.
  for (const Shape& shape : ShapesOf(executor.info(), context_tokens_max)) {
    const double expected_ns = ns_per_work * shape.work();
    if (static_cast<double>(taken_ns) + expected_ns > static_cast<double>(device_ns_max)) break;
    const std::optional<StepBatch> batch = BatchOf(shape, executor.info());
    if (!batch) continue;
    int64_t shortest_ns = 0;
    for (int run = 0; run < kRunsMax && taken_ns < device_ns_max; ++run) {
      FACET_ASSIGN_OR_RETURN(const int64_t device_ns, TimeStep(executor, *batch));
      taken_ns += device_ns;
      shortest_ns = run == 0 ? device_ns : std::min(shortest_ns, device_ns);
      if (shortest_ns > kSlowNs) break;
    }
    if (shortest_ns <= 0) break;
    samples.push_back(SampleOf(shape, shortest_ns));
    ns_per_work = static_cast<double>(shortest_ns) / shape.work();
  }
  return samples;
}

StatusOr<StepModel> WarmUp(Executor& executor, int32_t context_tokens_max) {
  FACET_ASSIGN_OR_RETURN(const std::vector<StepSample> samples,
                         TimeSteps(executor, context_tokens_max, kWarmUpNsMax));
  const StatusOr<StepFit> fit = FitStepModel(samples);
  if (!fit.ok()) {
    Log(kWarning, "no step model: requests share steps by tokens",
        {{"cause", MessageOf(fit.status())}});
    return StepModel();
  }
  Log(kInfo, "step model fitted",
      {{"step_model", fit->model.ToYaml()},
       {"error_ratio", fit->error_ratio},
       {"steps", samples.size()}});
  return fit->model;
}

StatusOr<int64_t> SumOfRanks(Executor& executor, int64_t value) {
  const StepResult result = executor.Await(executor.Submit({.weight = value}));
  FACET_RETURN_IF_ERROR(result.status);
  return result.group_weight;
}

Status RunCanary(Executor& executor, int32_t bos_id) {
  const Shape shape;
  std::optional<StepBatch> batch = BatchOf(shape, executor.info());
  if (!batch) return ResourceExhausted("the KV cache does not hold one token");
  batch->token_ids = {bos_id};
  const StepResult result = executor.Await(executor.Submit(*batch));
  FACET_RETURN_IF_ERROR(result.status);
  if (result.rows[0].finite) return absl::OkStatus();
  return Internal("the first step gave logits that are not finite: are the weights damaged?");
}

}  // namespace facet::worker
