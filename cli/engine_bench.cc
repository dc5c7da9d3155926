#include "cli/engine_bench.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/clock.h"
#include "base/math.h"
#include "base/progress_bar.h"
#include "cli/batch_timeline.h"
#include "kernels/open_backend.h"
#include "worker/engine/engine.h"
#include "worker/executor/model_executor.h"

namespace facet {
namespace {

using kernels::DType;

constexpr int32_t kBatchMax = 256;
constexpr uint64_t kSession = 1;

double Seconds(int64_t ns) { return static_cast<double>(ns) / 1e9; }

// Takes the engine's frames.
class BenchSink final : public worker::EngineSink {
 public:
  explicit BenchSink(BatchTimeline& timeline) : timeline_(timeline) {}

  void OnStepFrame(worker::StepFrame frame) override {
    timeline_.Add(frame, Clock::Real().NowNs());
  }

  void OnRefusal(worker::Refusal refusal) override { refused = refusal.status; }

  void OnSettled(worker::SettledAccount) override {}

  void OnLost(const Status& cause) override { refused = cause; }

  Status refused;

 private:
  BatchTimeline& timeline_;
};

Status CheckOptions(const EngineBenchOptions& options) {
  const auto check = [](const char* field, int value, int least, int most) -> Status {
    if (value >= least && value <= most) return absl::OkStatus();
    return InvalidArgument(field, " is ", value, "; it must be in [", least, ", ", most, "]");
  };
  if (options.batches.empty()) return InvalidArgument("batches is empty");
  for (const int batch : options.batches) {
    FACET_RETURN_IF_ERROR(check("batch", batch, 1, std::min(kBatchMax, options.step_tokens)));
  }
  FACET_RETURN_IF_ERROR(check("prompt", options.prompt, 1, 1 << 20));
  FACET_RETURN_IF_ERROR(check("output", options.output, 2, 1 << 20));
  FACET_RETURN_IF_ERROR(check("repetitions", options.repetitions, 1, 1000));
  FACET_RETURN_IF_ERROR(check("step_tokens", options.step_tokens, 1, 1 << 16));
  FACET_RETURN_IF_ERROR(check("threads", options.threads, 0, 1024));
  if (!(options.kv_gib > 0 && options.kv_gib <= 1024)) {
    return InvalidArgument("kv_gib is ", options.kv_gib, "; it must be in (0, 1024]");
  }
  if (options.dtype != "bf16" && options.dtype != "f32") {
    return InvalidArgument("dtype is ", options.dtype, "; bf16 and f32 exist");
  }
  return absl::OkStatus();
}

// One batch of equal requests, from submit to the last token.
StatusOr<EngineBenchRun> RunOnce(const EngineBenchOptions& options,
                                 int batch,
                                 worker::ModelExecutor& executor) {
  const worker::ModelWork& work = executor.info().work;
  BatchTimeline timeline(batch, options.prompt, work);
  BenchSink sink(timeline);
  worker::Engine engine({.scheduler = {.running_max = batch,
                                       .waiting_max = 0,
                                       .step_tokens_max = executor.info().step_tokens_max,
                                       .chunk_tokens_max = executor.info().step_tokens_max,
                                       .context_tokens_max = executor.info().context_tokens_max}},
                        executor, sink, Clock::Real());
  engine.OpenSession(kSession);
  const int64_t start_ns = Clock::Real().NowNs();
  for (int i = 0; i < batch; ++i) {
    worker::SequenceRequest request{.request_id = StrCat(i),
                                    .session_id = kSession,
                                    .sampling = {.temperature = 0},
                                    .new_tokens_max = options.output};
    for (int t = 0; t < options.prompt; ++t) {
      request.prompt_ids.push_back((i * 7919 + t * 104729) % executor.info().vocab);
    }
    FACET_RETURN_IF_ERROR(engine.AddRequest(std::move(request)));
  }
  while (engine.Step()) {
  }
  FACET_RETURN_IF_ERROR(sink.refused);
  const double prefill_seconds = Seconds(timeline.all_started_ns() - start_ns);
  const double prefill_flops =
      work.OfRow({.num_tokens = options.prompt,
                  .context = worker::StepRow::MeanContext(0, options.prompt),
                  .has_logits = true})
          .flops;
  EngineBenchRun run{.batch = batch,
                     .weight_bytes_per_step = static_cast<int64_t>(work.WeightBytes(batch)),
                     .prefill_tokens_per_second = batch * options.prompt / prefill_seconds,
                     .prefill_gflops = prefill_flops * batch / prefill_seconds / 1e9,
                     .output_tokens_per_second = static_cast<double>(timeline.num_tokens()) /
                                                 Seconds(timeline.last_ns() - start_ns),
                     .ttft_ms = Seconds(timeline.first_ns() - start_ns) * 1e3};
  const BatchTimeline::Decode& decode = timeline.decode();
  if (decode.num_steps == 0) return run;
  const double decode_seconds = Seconds(decode.ns);
  run.decode_tokens_per_second = static_cast<double>(decode.num_tokens) / decode_seconds;
  run.tpot_ms = decode_seconds / static_cast<double>(decode.num_steps) * 1e3;
  run.decode_gbps = decode.bytes / decode_seconds / 1e9;
  return run;
}

}  // namespace

StatusOr<EngineBenchReport> RunEngineBench(const EngineBenchOptions& options) {
  FACET_RETURN_IF_ERROR(CheckOptions(options));
  const kernels::BackendChoice choice{.device = options.device,
                                      .cpu_tier = options.cpu_tier,
                                      .threads = options.threads,
                                      .ple_on_host = options.ple_on_host,
                                      .kernels = options.kernels};
  kernels::OpenedBackend opened = kernels::OpenBackend(choice);
  if (opened.backend == nullptr) return InvalidArgument(opened.error);
  // Its own, because the executor's is busy with the model.
  const std::unique_ptr<kernels::Backend> probe = kernels::OpenBackend(choice).backend;
  EngineBenchReport report;
  const DType dtype = options.dtype == "bf16" ? DType::kBf16 : DType::kF32;
  const int64_t start_ns = Clock::Real().NowNs();
  std::unique_ptr<worker::ModelExecutor> executor;
  {
    ProgressBar bar(StrCat("loading ", options.model));
    FACET_ASSIGN_OR_RETURN(
        executor,
        worker::ModelExecutor::Create(
            {.model_directory = options.model,
             .dtype = dtype,
             .kv_bytes = static_cast<int64_t>(options.kv_gib * (1 << 30)),
             .running_max = *std::max_element(options.batches.begin(), options.batches.end()),
             .step_tokens_max = options.step_tokens},
            std::move(opened.backend),
            [&bar](int64_t done, int64_t total) { bar.Update(done, total); }));
  }
  report.load_seconds = Seconds(Clock::Real().NowNs() - start_ns);
  report.numerics_id = executor->info().numerics_id;
  report.gemm_gflops = probe->ProbeProducts(dtype);
  for (const int batch : options.batches) {
    for (int i = 0; i < options.repetitions; ++i) {
      const double before = probe->ProbeMemory();
      FACET_ASSIGN_OR_RETURN(EngineBenchRun run, RunOnce(options, batch, *executor));
      run.read_gbps_before = before;
      run.read_gbps_after = probe->ProbeMemory();
      run.decode_read_share = run.decode_gbps / ((run.read_gbps_before + run.read_gbps_after) / 2);
      report.runs.push_back(run);
    }
  }
  return report;
}

}  // namespace facet
