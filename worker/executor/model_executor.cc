#include "worker/executor/model_executor.h"

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "worker/model/device_bytes.h"
#include "worker/model/gemma4_work.h"
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

// Refuses what does not fit in the device's memory, before anything is loaded.
Status CheckFits(const ModelExecutorOptions& options,
                 const Gemma4Config& config,
                 const kernels::Backend& backend) {
  const kernels::MemoryOffer offer = backend.Memory();
  const DeviceBytes bytes = BytesNeeded(config, options.experts, options.dtype,
                                        options.step_tokens_max, options.running_max);
  const int64_t weights = bytes.weights + (offer.holds_tables ? bytes.tables : 0);
  const int64_t needed = weights + bytes.buffers + options.kv_bytes;
  if (needed <= offer.free_bytes) return absl::OkStatus();
  return ResourceExhausted(options.model_directory, " needs ", needed, " bytes of ", backend.name(),
                           " memory: ", weights, " for weights, ", options.kv_bytes,
                           " for the KV cache, ", bytes.buffers, " for a step's buffers; ",
                           offer.free_bytes, " are free");
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
  FACET_RETURN_IF_ERROR(CheckExpertShare(options.experts, config));
  FACET_RETURN_IF_ERROR(CheckFits(options, config, *backend));
  const std::vector<KvLayerShape> shapes = Gemma4::KvShapes(config, options.dtype);
  FACET_ASSIGN_OR_RETURN(const KvLayout layout,
                         PlanKvLayout(shapes, config.window, options.kv_bytes));
  StatusOr<Gemma4Weights> loaded = LoadGemma4Weights(std::move(checkpoint), config, options.experts,
                                                     options.dtype, *backend, progress);
  if (!loaded.ok()) return Annotate(loaded.status(), options.model_directory);
  Gemma4Weights weights = *std::move(loaded);
  const std::string digest = weights.checkpoint.LayoutDigest();
  const char* dtype = kernels::NameOf(options.dtype);
  const std::string numerics_id =
      StrCat(backend->name(), "/", dtype, "/", dtype, "/", backend->kernel_table());
  auto executor = std::unique_ptr<ModelExecutor>(
      new ModelExecutor(std::move(backend),
                        {.kv = layout,
                         .vocab = config.vocab,
                         .context_tokens_max = config.context_tokens_max,
                         .running_max = options.running_max,
                         .step_tokens_max = options.step_tokens_max,
                         .numerics_id = numerics_id,
                         .work = WorkOf(config, options.dtype)},
                        options.group_timeout));
  kernels::Backend& device = *executor->backend_;
  executor->weights_digest_ = digest;
  executor->model_ = std::make_unique<Gemma4>(config, std::move(weights), options.dtype, device,
                                              options.step_tokens_max);
  if (options.experts.shared()) {
    executor->exchange_ = std::make_unique<ExpertExchange>(
        executor->model_->config(), options.dtype, device,
        ExpertExchange::Options{.share = options.experts, .tokens_max = options.step_tokens_max});
  }
  executor->kv_ = std::make_unique<KvCache>(device, layout, shapes);
  executor->sampler_ = std::make_unique<Sampler>(device, options.running_max);
  executor->device_thread_ = std::thread([self = executor.get()] { self->DeviceMain(); });
  return executor;
}

ModelExecutor::ModelExecutor(std::unique_ptr<kernels::Backend> backend,
                             ExecutorInfo info,
                             absl::Duration group_timeout)
    : info_(std::move(info)), group_timeout_(group_timeout), backend_(std::move(backend)) {}

ModelExecutor::~ModelExecutor() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  if (device_thread_.joinable()) device_thread_.join();
}

Ticket ModelExecutor::Submit(const StepBatch& batch) {
  FACET_CHECK(!batch.rows.empty() || exchange_ != nullptr);
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
  Job* job = nullptr;
  bool collected = false;
  {
    absl::MutexLock lock(&mutex_);
    FACET_CHECK(!jobs_.empty() && jobs_.front()->ticket == ticket) << "awaited out of order";
    job = jobs_.front().get();
    mutex_.Await(absl::Condition(&job->enqueued));
    collected = job->collected;
  }
  if (!collected) Collect(*job);
  StepResult result = std::move(job->result);
  absl::MutexLock lock(&mutex_);
  jobs_.pop_front();
  return result;
}

void ModelExecutor::DeviceMain() {
  Turn turn;
  while (BeginTurn(turn)) {
    bool collect = false;
    if (turn.joins) {
      UseGroup(*turn.group);
    } else if (turn.job == nullptr) {
      TakePart(*turn.group);
    } else if (turn.job->batch.rows.empty()) {
      turn.job->result = ServeStep(turn.group, {.weight = turn.job->batch.weight});
      collect = true;
    } else {
      Enqueue(*turn.job, turn.group);
      // In a group the step has ended. Else the next one may need what only the host can tell:
      // counts of tokens, or the tokens themselves.
      collect = exchange_ != nullptr || turn.job->step->draws_on_host() || turn.job->counts;
      if (collect) Collect(*turn.job);
    }
    EndTurn(turn, collect);
  }
}

bool ModelExecutor::BeginTurn(Turn& turn) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return ending_ || next_to_run_ < next_ticket_ || group_is_new_ || GroupCalls();
  };
  mutex_.Await(absl::Condition(&ready));
  if (ending_) return false;
  turn = {.group = group_, .joins = std::exchange(group_is_new_, false)};
  if (!turn.joins && next_to_run_ < next_ticket_) turn.job = TakeJob();
  in_turn_ = true;
  return true;
}

void ModelExecutor::EndTurn(const Turn& turn, bool collected) {
  absl::MutexLock lock(&mutex_);
  in_turn_ = false;
  if (turn.job == nullptr) return;
  turn.job->collected = collected;
  turn.job->enqueued = true;
}

// Every rank does this first, because the ranks measure together.
void ModelExecutor::UseGroup(Communicator& group) {
  backend_->BeginStep();
  const Status status = exchange_->SetCommunicator(&group, group_timeout_);
  backend_->EndStep()->Wait();
  absl::MutexLock lock(&mutex_);
  group_over_ = !status.ok();
}

bool ModelExecutor::GroupCalls() const {
  if (group_ == nullptr || group_over_ || !serves_others_) return false;
  return group_->called() || (leaving_ && !said_leaving_);
}

ModelExecutor::Job* ModelExecutor::TakeJob() {
  const Ticket ticket = next_to_run_++;
  for (const std::unique_ptr<Job>& waiting : jobs_) {
    if (waiting->ticket == ticket) return waiting.get();
  }
  FACET_CHECK(false) << "no ticket" << ticket;
  return nullptr;
}

void ModelExecutor::JoinGroup(Communicator& communicator, std::function<void()> on_event) {
  communicator.SetListener([this, on_event] {
    on_event();
    const absl::MutexLock lock(&mutex_);  // Wakes the device thread.
  });
  absl::MutexLock lock(&mutex_);
  group_ = &communicator;
  on_group_event_ = std::move(on_event);
  group_header_ = {};
  group_is_new_ = true;
  group_over_ = false;
  said_leaving_ = false;
  serves_others_ = false;
}

void ModelExecutor::ServeOthers() {
  absl::MutexLock lock(&mutex_);
  serves_others_ = true;
}

void ModelExecutor::QuitGroup(Status cause) {
  Communicator* group = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    group = std::exchange(group_, nullptr);
    group_is_new_ = false;
    no_group_ = std::move(cause);
    const auto unused = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !in_turn_; };
    mutex_.Await(absl::Condition(&unused));
    on_group_event_ = nullptr;
  }
  if (group != nullptr) group->SetListener(nullptr);
}

void ModelExecutor::LeaveGroup() {
  absl::MutexLock lock(&mutex_);
  leaving_ = true;
}

StepHeader ModelExecutor::group_header() const {
  absl::MutexLock lock(&mutex_);
  return group_header_;
}

StatusOr<StepHeader> ModelExecutor::AgreeOnStep(Communicator* group, StepWish wish) {
  {
    absl::MutexLock lock(&mutex_);
    if (group == nullptr) return no_group_;
    wish.leaving = leaving_;
    said_leaving_ = leaving_;
  }
  StatusOr<StepHeader> header = group->Agree(wish, group_timeout_);
  std::function<void()> on_event;
  {
    absl::MutexLock lock(&mutex_);
    group_over_ = !header.ok() || header->all_leaving();
    if (header.ok()) group_header_ = *header;
    if (header.ok() && header->any_leaving()) on_event = on_group_event_;
  }
  if (on_event) on_event();
  if (header.ok() && header->tokens_max() > 0) {
    FACET_RETURN_IF_ERROR(exchange_->BeginStep(header->tokens_max(), group_timeout_));
  }
  return header;
}

void ModelExecutor::SetAssistObserver(AssistObserver* observer) {
  absl::MutexLock lock(&assist_mutex_);
  assist_observer_ = observer;
}

void ModelExecutor::TakePart(Communicator& group) {
  {
    absl::MutexLock lock(&assist_mutex_);
    if (assist_observer_ != nullptr) assist_observer_->OnAssistBegins();
  }
  const StepResult result = ServeStep(&group, {});
  absl::MutexLock lock(&assist_mutex_);
  if (assist_observer_ != nullptr) assist_observer_->OnAssistEnds(result.device_ns);
}

StepResult ModelExecutor::ServeStep(Communicator* group, const StepWish& wish) {
  StepResult result;
  backend_->BeginStep();
  const StatusOr<StepHeader> header = AgreeOnStep(group, wish);
  result.status = header.status();
  bool served = false;
  if (header.ok()) {
    result.num_ranks = static_cast<int32_t>(header->ranks.size());
    result.group_weight = header->weight();
  }
  if (header.ok() && header->tokens_max() > 0) {
    result.status = model_->ServeExperts(*exchange_);
    if (result.status.ok()) result.status = exchange_->EndStep();
    served = result.status.ok();
    absl::MutexLock lock(&mutex_);
    group_over_ = !served;
  }
  const kernels::StepOutcome outcome = backend_->EndStep()->Wait();
  if (served) result.device_ns = outcome.device_ns;
  return result;
}

struct ModelExecutor::StepInputs {
  std::vector<int32_t> ids;
  GeometryRows sliding;
  GeometryRows full;
  LogitsPlan plan;
  kernels::ConstTensorView logits;
};

void ModelExecutor::Enqueue(Job& job, Communicator* group) {
  StepInputs inputs;
  backend_->BeginStep();
  Status status = EnqueueOps(job, group, inputs);
  if (!status.ok()) AwaitMasks(job);  // Whoever provides them finds the job.
  job.step = backend_->EndStep();
  if (status.ok() && exchange_ != nullptr) status = exchange_->EndStep();
  if (status.ok()) CopyForHost(job, inputs.logits);
  job.result.status = std::move(status);
}

Status ModelExecutor::EnqueueOps(Job& job, Communicator* group, StepInputs& inputs) {
  const StepBatch& batch = job.batch;
  if (exchange_ != nullptr) {
    FACET_ASSIGN_OR_RETURN(
        const StepHeader header,
        AgreeOnStep(group, {.num_tokens = batch.num_tokens(), .weight = batch.weight}));
    job.result.num_ranks = static_cast<int32_t>(header.ranks.size());
    job.result.group_weight = header.weight();
  }
  inputs.ids = batch.token_ids;
  for (const BatchRow& row : batch.rows) {
    if (row.slot_state.has_value()) sampler_->SetSlot(row.slot, *row.slot_state);
    if (row.token_is_last_sample) inputs.ids[row.first_token] = kernels::FedToken(row.slot);
  }
  inputs.sliding = RowsOf(batch, KvGeometry::kSliding, *kv_);
  inputs.full = RowsOf(batch, KvGeometry::kFull, *kv_);
  inputs.plan = PlanLogits(batch);
  FACET_ASSIGN_OR_RETURN(inputs.logits, model_->Forward({.ids = inputs.ids,
                                                         .last_tokens = sampler_->last_tokens(),
                                                         .sliding_rows = inputs.sliding.rows,
                                                         .full_rows = inputs.full.rows,
                                                         .logits_rows = inputs.plan.tokens,
                                                         .exchange = exchange_.get()},
                                                        *kv_));
  AwaitMasks(job);

  for (size_t i = 0; i < batch.rows.size(); ++i) {
    const BatchRow& row = batch.rows[i];
    if (!row.sample || inputs.plan.last_of_row[i] < 0) continue;
    job.draws.push_back({.slot = row.slot,
                         .logits_row = inputs.plan.last_of_row[i],
                         .position = row.first_position + row.num_tokens,
                         .mask = job.masks[i]});
    job.drawn_rows.push_back(i);
  }
  sampler_->Sample(inputs.logits, job.draws);
  job.counts = sampler_->Counts(job.draws);
  return absl::OkStatus();
}

void ModelExecutor::CopyForHost(Job& job, const kernels::ConstTensorView& logits) {
  if (job.batch.return_logits) {
    job.result.logits.resize(static_cast<size_t>(logits.num_elements()));
    backend_->CopyToHost(job.result.logits.data(), logits.raw(),
                         logits.num_elements() * kernels::SizeOf(logits.dtype()));
  }
  if (job.batch.return_expert_choices && exchange_ != nullptr) {
    job.result.expert_choices = exchange_->ExpertTokens();
  }
}

void ModelExecutor::Collect(Job& job) {
  kernels::StepOutcome outcome = job.step->Wait();
  job.step
      .reset();  // Two may exist, and the next may be another rank's, that this one has part in.
  job.result.device_ns = outcome.device_ns;
  job.result.rows.resize(job.batch.rows.size());
  if (!job.result.status.ok()) return;  // What was drawn means nothing.
  if (job.counts) sampler_->Count(job.draws, outcome.tokens);
  for (size_t i = 0; i < outcome.tokens.size(); ++i) {
    kernels::SampledToken& token = outcome.tokens[i];
    job.result.rows[job.drawn_rows[i]] = {.token = token.id,
                                          .finite = token.finite,
                                          .logprob = token.logprob,
                                          .top_ids = std::move(token.top_ids),
                                          .top_logprobs = std::move(token.top_logprobs)};
  }
}

void ModelExecutor::AwaitMasks(Job& job) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this, &job]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return ending_ || job.masks_missing == 0;
  };
  mutex_.Await(absl::Condition(&ready));
}

}  // namespace facet::worker
