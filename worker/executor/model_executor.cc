#include "worker/executor/model_executor.h"

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "base/clock.h"
#include "worker/model/model_shape.h"
#include "worker/model/random_checkpoint.h"

namespace facet::worker {
namespace {

// The rows of one geometry, with block ids turned into offsets that outlive the span's user.
struct GeometryRows {
  std::vector<std::vector<int32_t>> offsets;
  std::vector<kernels::AttentionRow> rows;
};

GeometryRows RowsOf(const StepBatch& batch, KvGeometry geometry, const KvCache& kv) {
  GeometryRows out;
  out.offsets.reserve(batch.rows.size());
  if (kv.layout().of(geometry).block_bytes == 0) return out;
  for (const BatchRow& row : batch.rows) {
    const BlockTable& table = row.tables[static_cast<int>(geometry)];
    std::vector<int32_t>& offsets = out.offsets.emplace_back();
    for (const int32_t block : table.blocks) offsets.push_back(kv.OffsetOf(geometry, block));
    out.rows.push_back({.first_token = row.first_token,
                        .num_tokens = row.num_tokens,
                        .first_position = row.first_position,
                        .first_block = table.first_block,
                        .blocks = offsets});
  }
  return out;
}

// Which tokens want logits, and where each row's last wanted ones lie among them (-1: none).
struct LogitsPlan {
  std::vector<int32_t> tokens;
  std::vector<int32_t> last_of_row;
};

LogitsPlan PlanLogits(const StepBatch& batch) {
  LogitsPlan plan;
  for (const BatchRow& row : batch.rows) {
    const int32_t end = row.first_token + row.num_tokens;
    if (row.logits == LogitsWanted::kAll) {
      for (int32_t t = row.first_token; t < end; ++t) plan.tokens.push_back(t);
    } else if (row.logits == LogitsWanted::kLast) {
      plan.tokens.push_back(end - 1);
    }
    plan.last_of_row.push_back(
        row.logits == LogitsWanted::kNone ? -1 : static_cast<int32_t>(plan.tokens.size()) - 1);
  }
  return plan;
}

// Config and tensors of a directory, or of "synth:SHAPE[:LAYERS]".
StatusOr<std::pair<Gemma4Config, Checkpoint>> OpenModel(const std::string& model) {
  constexpr std::string_view kSynth = "synth:";
  if (!model.starts_with(kSynth)) {
    FACET_ASSIGN_OR_RETURN(Gemma4Config config, LoadGemma4Config(model));
    FACET_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(model));
    return std::pair(std::move(config), std::move(checkpoint));
  }
  const std::string name = model.substr(kSynth.size());
  const size_t colon = name.find(':');
  FACET_ASSIGN_OR_RETURN(ModelShape shape, PublishedShape(name.substr(0, colon)));
  if (colon != std::string::npos) {
    const int64_t num_layers = std::strtol(name.c_str() + colon + 1, nullptr, 10);
    FACET_ASSIGN_OR_RETURN(shape, WithLayers(shape, static_cast<int32_t>(num_layers)));
  }
  FACET_ASSIGN_OR_RETURN(Gemma4Config config, ParseGemma4Config(ConfigJson(shape)));
  FACET_ASSIGN_OR_RETURN(Checkpoint checkpoint, MakeRandomCheckpoint(config, /*seed=*/1));
  return std::pair(std::move(config), std::move(checkpoint));
}

}  // namespace

StatusOr<std::unique_ptr<ModelExecutor>> ModelExecutor::Create(
    const ModelExecutorOptions& options,
    std::unique_ptr<kernels::Backend> backend,
    const LoadProgress& progress) {
  if (!backend->Supports(options.dtype)) {
    return InvalidArgument("dtype is ", kernels::NameOf(options.dtype), "; ", backend->name(),
                           " runs bf16 only");
  }
  FACET_ASSIGN_OR_RETURN(auto source, OpenModel(options.model_directory));
  auto& [config, checkpoint] = source;
  const std::vector<KvLayerShape> shapes = Gemma4::KvShapes(config, options.dtype);
  FACET_ASSIGN_OR_RETURN(const KvLayout layout,
                         PlanKvLayout(shapes, config.window, options.kv_bytes));
  StatusOr<Gemma4Weights> loaded =
      LoadGemma4Weights(std::move(checkpoint), config, options.dtype, *backend, progress);
  if (!loaded.ok()) return Annotate(loaded.status(), options.model_directory);
  Gemma4Weights weights = *std::move(loaded);
  const std::string digest = weights.checkpoint.LayoutDigest();
  const char* dtype = kernels::NameOf(options.dtype);
  const std::string numerics_id = StrCat(backend->name(), "/", dtype, "/", dtype, "/exact-1");
  auto executor = std::unique_ptr<ModelExecutor>(new ModelExecutor(
      std::move(backend), ExecutorInfo{.kv = layout,
                                       .vocab = config.vocab,
                                       .context_tokens_max = config.context_tokens_max,
                                       .running_max = options.running_max,
                                       .step_tokens_max = options.step_tokens_max,
                                       .numerics_id = numerics_id}));
  kernels::Backend& device = *executor->backend_;
  executor->weights_digest_ = digest;
  executor->model_ = std::make_unique<Gemma4>(config, std::move(weights), options.dtype, device,
                                              options.step_tokens_max);
  executor->kv_ = std::make_unique<KvCache>(device, layout, shapes);
  executor->sampler_ = std::make_unique<Sampler>(device, options.running_max);
  executor->device_thread_ = std::thread([self = executor.get()] { self->DeviceMain(); });
  return executor;
}

ModelExecutor::ModelExecutor(std::unique_ptr<kernels::Backend> backend, ExecutorInfo info)
    : info_(std::move(info)), backend_(std::move(backend)) {}

ModelExecutor::~ModelExecutor() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  if (device_thread_.joinable()) device_thread_.join();
}

Ticket ModelExecutor::Submit(const StepBatch& batch) {
  FACET_CHECK(!batch.rows.empty());
  FACET_CHECK_LE(batch.num_tokens(), info_.step_tokens_max);
  auto job = std::make_unique<Job>();
  job->batch = batch;
  job->masks.resize(batch.rows.size());
  job->masks_missing = static_cast<int32_t>(std::count_if(
      batch.rows.begin(), batch.rows.end(), [](const BatchRow& row) { return row.awaits_mask; }));
  absl::MutexLock lock(&mutex_);
  FACET_CHECK_LT(jobs_.size(), 2U) << "one step in flight, one planned";
  job->ticket = next_ticket_++;
  jobs_.push_back(std::move(job));
  return jobs_.back()->ticket;
}

void ModelExecutor::ProvideMask(Ticket ticket, int32_t row, std::span<const uint32_t> mask) {
  absl::MutexLock lock(&mutex_);
  for (const std::unique_ptr<Job>& job : jobs_) {
    if (job->ticket != ticket) continue;
    FACET_CHECK(job->batch.rows[row].awaits_mask && job->masks[row].empty());
    job->masks[row].assign(mask.begin(), mask.end());
    --job->masks_missing;
    return;
  }
  FACET_CHECK(false) << "no ticket" << ticket;
}

StepResult ModelExecutor::Await(Ticket ticket) {
  absl::MutexLock lock(&mutex_);
  FACET_CHECK(!jobs_.empty() && jobs_.front()->ticket == ticket) << "awaited out of order";
  mutex_.Await(absl::Condition(&jobs_.front()->done));
  StepResult result = std::move(jobs_.front()->result);
  jobs_.pop_front();
  return result;
}

void ModelExecutor::DeviceMain() {
  while (true) {
    Job* job = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return ending_ || next_to_run_ < next_ticket_;
      };
      mutex_.Await(absl::Condition(&ready));
      if (ending_) return;
      for (const std::unique_ptr<Job>& waiting : jobs_) {
        if (waiting->ticket == next_to_run_) job = waiting.get();
      }
      ++next_to_run_;
    }
    StepResult result = Run(*job);
    absl::MutexLock lock(&mutex_);
    job->result = std::move(result);
    job->done = true;
  }
}

StepResult ModelExecutor::Run(Job& job) {
  const int64_t start_ns = Clock::Real().NowNs();
  const StepBatch& batch = job.batch;
  std::vector<int32_t> ids = batch.token_ids;
  for (const BatchRow& row : batch.rows) {
    if (row.slot_state.has_value()) sampler_->SetSlot(row.slot, *row.slot_state);
    if (row.token_is_last_sample) ids[row.first_token] = sampler_->last_token(row.slot);
  }
  const GeometryRows sliding = RowsOf(batch, KvGeometry::kSliding, *kv_);
  const GeometryRows full = RowsOf(batch, KvGeometry::kFull, *kv_);
  const LogitsPlan plan = PlanLogits(batch);
  const kernels::ConstTensorView logits = model_->Forward({.ids = ids,
                                                           .sliding_rows = sliding.rows,
                                                           .full_rows = full.rows,
                                                           .logits_rows = plan.tokens},
                                                          *kv_);
  AwaitMasks(job);

  StepResult result;
  result.rows.resize(batch.rows.size());
  std::vector<Sampler::Draw> draws;
  std::vector<size_t> drawn_rows;
  for (size_t i = 0; i < batch.rows.size(); ++i) {
    const BatchRow& row = batch.rows[i];
    if (!row.sample || plan.last_of_row[i] < 0) continue;
    draws.push_back({.slot = row.slot,
                     .logits_row = plan.last_of_row[i],
                     .position = row.first_position + row.num_tokens,
                     .mask = job.masks[i]});
    drawn_rows.push_back(i);
  }
  std::vector<kernels::SampledToken> tokens = sampler_->Sample(logits, draws);
  for (size_t i = 0; i < tokens.size(); ++i) {
    result.rows[drawn_rows[i]] = {.token = tokens[i].id,
                                  .finite = tokens[i].finite,
                                  .logprob = tokens[i].logprob,
                                  .top_ids = std::move(tokens[i].top_ids),
                                  .top_logprobs = std::move(tokens[i].top_logprobs)};
  }
  if (batch.return_logits) {
    result.logits.resize(static_cast<size_t>(logits.num_elements()));
    backend_->CopyToHost(result.logits.data(), logits.raw(),
                         logits.num_elements() * kernels::SizeOf(logits.dtype()));
  }
  result.device_ns = Clock::Real().NowNs() - start_ns;
  return result;
}

void ModelExecutor::AwaitMasks(Job& job) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this, &job]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return ending_ || job.masks_missing == 0;
  };
  mutex_.Await(absl::Condition(&ready));
}

}  // namespace facet::worker
