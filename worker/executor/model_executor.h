// The real model on a backend: resolves a step's tokens, runs the forward pass, samples.
//
// Life of a ticket: submitted → enqueued by the device thread → collected → awaited. Submit copies
// the batch and returns at once; the device thread calls the ops of ticket after ticket, and a row
// whose token is "this slot's last sample" takes it from device memory. Await collects: it waits
// for the step's end. A step that the host must see before it can go on with the next one is
// collected by the device thread, and so is every step of a group: the wait for its ranks has a
// deadline. On a host backend ops have ended when they return, by the same path.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"
#include "worker/executor/executor.h"
#include "worker/kv/kv_cache.h"
#include "worker/model/gemma4.h"
#include "worker/sampling/sampler.h"

namespace facet::worker {

struct ModelExecutorOptions {
  // A Hugging Face directory, or "synth:SHAPE" or "synth:SHAPE:LAYERS": random weights of a
  // published shape (model_shape.h), made in memory.
  std::string model_directory;
  kernels::DType dtype = kernels::DType::kBf16;
  int64_t kv_bytes = 0;
  int32_t running_max = 0;
  int32_t step_tokens_max = 0;
  ExpertShare experts;                               // Of every layer, those that this rank holds.
  absl::Duration group_timeout = absl::Seconds(30);  // For another rank in a step.
};

class ModelExecutor final : public Executor {
 public:
  // Reads and checks the directory, packs the weights (progress is called from this thread) and
  // allocates the KV arena.
  static StatusOr<std::unique_ptr<ModelExecutor>> Create(const ModelExecutorOptions& options,
                                                         std::unique_ptr<kernels::Backend> backend,
                                                         const LoadProgress& progress = nullptr);
  ~ModelExecutor() override;

  const ExecutorInfo& info() const override { return info_; }

  const Gemma4Config& config() const { return model_->config(); }

  // Of the checkpoint's names, dtypes and shapes.
  const std::string& weights_digest() const { return weights_digest_; }

  void SetAssistObserver(AssistObserver* observer) override;
  Ticket Submit(const StepBatch& batch) override;
  void ProvideMask(Ticket ticket, int32_t row, std::span<const uint32_t> mask) override;
  StepResult Await(Ticket ticket) override;

  // The rest is for a rank of a group. From here to QuitGroup every step is one of the group's.
  // on_event is called, on any thread, when the group has ended and when what its ranks want of it
  // has changed (group_header).
  void JoinGroup(Communicator& communicator, std::function<void()> on_event);

  // From now on this rank takes part in steps of the others between its own. Until then, in each
  // group, it makes only its own, so that ranks may do the same steps together.
  void ServeOthers();

  // Returns when nothing uses the communicator any more. Steps fail with this cause until
  // JoinGroup.
  void QuitGroup(Status cause);

  // From now on this rank tells the others that it wants no more steps.
  void LeaveGroup();

  // Of the group's latest step.
  StepHeader group_header() const;

 private:
  struct Job {
    Ticket ticket = 0;
    StepBatch batch;
    // By row; filled by ProvideMask.
    std::vector<std::vector<uint32_t>> masks;
    int32_t masks_missing = 0;
    std::vector<Sampler::Draw> draws;
    std::vector<size_t> drawn_rows;  // Of batch.rows, one for each draw.
    bool counts = false;             // The sampler must be told what was drawn.
    std::unique_ptr<kernels::StepInFlight> step;
    StepResult result;
    // Of the two halves, both set under mutex_.
    bool enqueued = false;
    bool collected = false;
  };

  ModelExecutor(std::unique_ptr<kernels::Backend> backend,
                ExecutorInfo info,
                absl::Duration group_timeout);

  // What ops read until the step's end.
  struct StepInputs;

  // What the device thread does next: a job, or no more than to take part in a step of the group.
  struct Turn {
    Job* job = nullptr;
    Communicator* group = nullptr;  // Stays until the turn's end.
    bool joins = false;             // The group is new; nothing else in this turn.
  };

  void DeviceMain();
  // False when ending.
  bool BeginTurn(Turn& turn);
  void EndTurn(const Turn& turn, bool collected);
  Job* TakeJob() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the group waits for this rank.
  bool GroupCalls() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Calls the ops of the step and waits for nothing but masks and, in a group, the other ranks.
  void Enqueue(Job& job, Communicator* group);
  Status EnqueueOps(Job& job, Communicator* group, StepInputs& inputs);
  // What the batch asks for beyond tokens. Waits for the step: the next one overwrites it.
  void CopyForHost(Job& job, const kernels::ConstTensorView& logits);
  void UseGroup(Communicator& group);
  // A step of the group without a token of this rank's.
  void TakePart(Communicator& group);
  // The step itself; device_ns is 0 if no rank brought a token. group may be null.
  StepResult ServeStep(Communicator* group, const StepWish& wish);
  // Agrees with the other ranks on a step to which this one brings so much.
  StatusOr<StepHeader> AgreeOnStep(Communicator* group, StepWish wish);
  // Waits for the step's end and fills the result.
  void Collect(Job& job);
  // Waits for the job's masks.
  void AwaitMasks(Job& job);

  const ExecutorInfo info_;
  const absl::Duration group_timeout_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Gemma4> model_;
  std::unique_ptr<ExpertExchange> exchange_;  // Of a rank of a group.
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<Sampler> sampler_;
  std::string weights_digest_;

  absl::Mutex assist_mutex_;  // Held while the observer is called.
  AssistObserver* assist_observer_ ABSL_GUARDED_BY(assist_mutex_) = nullptr;

  mutable absl::Mutex mutex_;
  std::deque<std::unique_ptr<Job>> jobs_ ABSL_GUARDED_BY(mutex_);  // Submitted and not yet awaited.
  Ticket next_ticket_ ABSL_GUARDED_BY(mutex_) = 1;
  Ticket next_to_run_ ABSL_GUARDED_BY(mutex_) = 1;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;

  Communicator* group_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::function<void()> on_group_event_ ABSL_GUARDED_BY(mutex_);
  bool serves_others_ ABSL_GUARDED_BY(mutex_) = false;
  Status no_group_ ABSL_GUARDED_BY(mutex_) = Unavailable("the group is not formed");
  bool group_is_new_ ABSL_GUARDED_BY(mutex_) = false;
  StepHeader group_header_ ABSL_GUARDED_BY(mutex_);
  bool group_over_ ABSL_GUARDED_BY(mutex_) = false;  // No more steps with this communicator.
  bool in_turn_ ABSL_GUARDED_BY(mutex_) = false;
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  bool said_leaving_ ABSL_GUARDED_BY(mutex_) = false;  // In the present epoch.
  std::thread device_thread_;
};

}  // namespace facet::worker
