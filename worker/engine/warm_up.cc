#include "worker/engine/warm_up.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "base/math.h"
#include "worker/kv/block_pool.h"

namespace facet::worker {
namespace {

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
                       .context = shape.first + (shape.num_tokens + 1) / 2.0};
  return {.rows = std::vector<StepRow>(shape.num_rows, row), .device_ns = device_ns};
}

}  // namespace

StatusOr<std::vector<StepSample>> TimeSteps(Executor& executor,
                                            int32_t context_tokens_max,
                                            int64_t time_ns_max,
                                            const Clock& clock) {
  const int64_t deadline_ns = clock.NowNs() + time_ns_max;
  std::vector<StepSample> samples;
  double ns_per_work = 0;  // Of the step before.
  for (const Shape& shape : ShapesOf(executor.info(), context_tokens_max)) {
    const double expected_ns = ns_per_work * shape.work();
    if (static_cast<double>(clock.NowNs()) + expected_ns > static_cast<double>(deadline_ns)) break;
    const std::optional<StepBatch> batch = BatchOf(shape, executor.info());
    if (!batch) continue;
    int64_t shortest_ns = 0;
    for (int run = 0; run < kRunsMax && clock.NowNs() < deadline_ns; ++run) {
      const StepResult result = executor.Await(executor.Submit(*batch));
      FACET_RETURN_IF_ERROR(result.status);
      shortest_ns = run == 0 ? result.device_ns : std::min(shortest_ns, result.device_ns);
      if (shortest_ns > kSlowNs) break;
    }
    if (shortest_ns <= 0) break;
    samples.push_back(SampleOf(shape, shortest_ns));
    ns_per_work = static_cast<double>(shortest_ns) / shape.work();
  }
  return samples;
}

}  // namespace facet::worker
