// The real model on a backend: resolves a step's tokens, runs the forward pass, samples.
//
// Life of a ticket: submitted → enqueued by the device thread → collected → awaited. Submit copies
// the batch and returns at once; the device thread calls the ops of ticket after ticket, and a row
// whose token is "this slot's last sample" takes it from device memory. Await collects: it waits
// for the step's end. A step that the host must see before it can go on with the next one is
// collected by the device thread. On a host backend ops have ended when they return, by the same
// path.
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
  ExpertShare experts;  // Of every layer, those that this rank holds.
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

  // Of a rank that shares experts, else null. Whoever runs its steps gives it a communicator and
  // begins each step, on the device thread's side of Submit.
  ExpertExchange* exchange() { return exchange_.get(); }

  // Of the checkpoint's names, dtypes and shapes.
  const std::string& weights_digest() const { return weights_digest_; }

  Ticket Submit(const StepBatch& batch) override;
  void ProvideMask(Ticket ticket, int32_t row, std::span<const uint32_t> mask) override;
  StepResult Await(Ticket ticket) override;

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

  ModelExecutor(std::unique_ptr<kernels::Backend> backend, ExecutorInfo info);

  void DeviceMain();
  // The next job to enqueue; null when ending.
  Job* NextJob();
  // Calls the ops of the step and waits for nothing but masks.
  void Enqueue(Job& job);
  // Waits for the step's end and fills the result.
  void Collect(Job& job);
  // Waits for the job's masks.
  void AwaitMasks(Job& job);

  const ExecutorInfo info_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Gemma4> model_;
  std::unique_ptr<ExpertExchange> exchange_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<Sampler> sampler_;
  std::string weights_digest_;

  absl::Mutex mutex_;
  std::deque<std::unique_ptr<Job>> jobs_ ABSL_GUARDED_BY(mutex_);  // Submitted and not yet awaited.
  Ticket next_ticket_ ABSL_GUARDED_BY(mutex_) = 1;
  Ticket next_to_run_ ABSL_GUARDED_BY(mutex_) = 1;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread device_thread_;
};

}  // namespace facet::worker
