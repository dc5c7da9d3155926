#include "tests/bench/kernel_bench/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/math.h"
#include "tests/bench/kernel_bench/stream_read.h"

namespace facet::bench {
namespace {

using kernels::Bf16;
using kernels::Buffer;
using kernels::ConstTensorView;
using kernels::DType;
using kernels::TensorView;

// An idle device runs at a fraction of its clock and takes a while to leave that.
constexpr int kRaiseClocksMs = 500;
constexpr int kWarmUps = 3;
constexpr int kCallsMax = 512;
// With fewer operations for each byte, memory is what takes longest: by their data sheets an A100
// of 80 GB does 150 operations in the time of a byte, an H200 205.
constexpr double kFlopsPerByteOfProducts = 100;

int64_t NumElements(std::initializer_list<int64_t> shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

// Multiples of 2^-12 in ±1/32: exact in bf16, and small enough that sums stay far from its limits.
std::vector<Bf16> RandomHostValues(int64_t count) {
  std::vector<Bf16> values(static_cast<size_t>(count));
  uint64_t state = 0x9e3779b97f4a7c15;
  for (Bf16& value : values) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    value = kernels::ToBf16(static_cast<float>(static_cast<int>(state >> 32 & 255) - 128) / 4096);
  }
  return values;
}

// A stand-in of each kind of layer, for options().check.
worker::ModelShape SmallShape(const std::string& name) {
  const bool experts = name == "26b";
  return {.name = name + "-small",
          .num_layers = 2,
          .full_every = 2,
          .hidden = 64,
          .intermediate = 96,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .num_global_kv_heads = experts ? 1 : 0,
          .head_dim = 32,
          .global_head_dim = 64,
          .window = 24,
          .ple_size = name == "e4b" ? 16 : 0,
          .num_experts = experts ? 8 : 0,
          .top_k_experts = experts ? 2 : 0,
          .expert_intermediate = experts ? 32 : 0,
          .vocab = 300,
          .k_eq_v = experts};
}

const char* VerdictOf(const Bar& bar, double share) {
  if (bar.must == 0 || share == 0) return "-";
  return share >= bar.good ? "good" : share >= bar.must ? "must" : "below";
}

// Events between runs of work on a stream.
class Events {
 public:
  explicit Events(int count) : events_(static_cast<size_t>(count)) {
    for (cudaEvent_t& event : events_) {
      CheckCuda(cudaEventCreateWithFlags(&event, cudaEventDefault), "event");
    }
  }

  ~Events() {
    for (const cudaEvent_t event : events_) CheckCuda(cudaEventDestroy(event), "event");
  }

  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  void Record(int i, cudaStream_t stream) {
    CheckCuda(cudaEventRecord(events_[static_cast<size_t>(i)], stream), "event");
  }

  double SecondsBetween(int i, int j) const {
    float ms = 0;
    CheckCuda(
        cudaEventElapsedTime(&ms, events_[static_cast<size_t>(i)], events_[static_cast<size_t>(j)]),
        "event");
    return ms * 1e-3;
  }

 private:
  std::vector<cudaEvent_t> events_;
};

}  // namespace

void CheckCuda(cudaError_t error, const char* what) {
  FACET_CHECK(error == cudaSuccess) << what << ":" << cudaGetErrorString(error);
}

Bench::Bench(const BenchOptions& options,
             std::shared_ptr<kernels::CublasLt> library,
             std::FILE* json)
    : options_(options),
      library_(std::move(library)),
      backend_({.device = options.device, .cublas_lt = options.fast ? library_ : nullptr}),
      host_values_(RandomHostValues(int64_t{1} << (options.check ? 16 : 26))),
      device_values_(backend_.Upload(
          ConstTensorView(
              host_values_.data(), DType::kBf16, {static_cast<int64_t>(host_values_.size())}),
          DType::kBf16)),
      json_(json) {}

std::vector<worker::ModelShape> Bench::Shapes(std::initializer_list<const char*> names) const {
  std::vector<worker::ModelShape> shapes;
  for (const char* name : names) {
    if (options_.check) {
      shapes.push_back(SmallShape(name));
      continue;
    }
    StatusOr<worker::ModelShape> shape = worker::PublishedShape(name);
    FACET_CHECK(shape.ok()) << name;
    shapes.push_back(*std::move(shape));
  }
  return shapes;
}

int Bench::NumSets(int64_t set_bytes) const {
  if (options_.check) return 2;
  return static_cast<int>(std::max<int64_t>(1, CeilDiv(options_.rotation_bytes, set_bytes)));
}

Buffer Bench::RandomValues(int64_t count) {
  const int64_t bytes = count * SizeOf(DType::kBf16);
  Buffer buffer = backend_.Allocate(bytes);
  for (int64_t at = 0; at < bytes; at += device_values_.bytes()) {
    const int64_t size = std::min(bytes - at, device_values_.bytes());
    CheckCuda(cudaMemcpyAsync(static_cast<std::byte*>(buffer.data()) + at, device_values_.data(),
                              static_cast<size_t>(size), cudaMemcpyDeviceToDevice, stream()),
              "copy");
  }
  return buffer;
}

TensorView Bench::RandomTensor(std::initializer_list<int64_t> shape) {
  tensors_.push_back(RandomValues(NumElements(shape)));
  return TensorView(tensors_.back().data(), DType::kBf16, shape);
}

ConstTensorView Bench::Constant(DType dtype, int64_t count, float value) {
  const std::vector<float> values(static_cast<size_t>(count), value);
  tensors_.push_back(backend_.Upload(ConstTensorView(values.data(), DType::kF32, {count}), dtype));
  return ConstTensorView(tensors_.back().data(), dtype, {count});
}

kernels::PackedWeight Bench::RandomWeight(int64_t rows, int64_t cols) {
  // Windows into one run of values, as long as the weight and a new one each time; longer weights
  // than the run are packed from a longer copy of it.
  const int64_t count = rows * cols;
  while (static_cast<int64_t>(host_values_.size()) < count) {
    const size_t size = host_values_.size();
    host_values_.resize(2 * size);
    std::copy_n(host_values_.begin(), size, host_values_.begin() + static_cast<int64_t>(size));
  }
  constexpr int64_t kWindowStep = 1021;
  next_value_ =
      (next_value_ + kWindowStep) % (static_cast<int64_t>(host_values_.size()) - count + 1);
  return backend_.Pack(
      ConstTensorView(host_values_.data() + next_value_, DType::kBf16, {rows, cols}),
      kernels::WeightFormat::kBf16);
}

TensorView Bench::Output(DType dtype, std::initializer_list<int64_t> shape) {
  outputs_.push_back({backend_.Allocate(NumElements(shape) * SizeOf(dtype)), dtype});
  return TensorView(outputs_.back().memory.data(), dtype, shape);
}

void Bench::ForgetTensors() {
  CheckCuda(cudaStreamSynchronize(stream()), "cases");
  tensors_.clear();
  outputs_.clear();
}

void Bench::PoisonOutputs() {
  for (const PoisonedOutput& output : outputs_) {
    CheckCuda(cudaMemsetAsync(output.memory.data(), 0xff,
                              static_cast<size_t>(output.memory.bytes()), stream()),
              "poison");
  }
}

int64_t Bench::CountNotFinite() {
  int64_t count = 0;
  for (const PoisonedOutput& output : outputs_) {
    if (output.dtype == DType::kI32) continue;
    std::vector<std::byte> host(static_cast<size_t>(output.memory.bytes()));
    backend_.CopyToHost(host.data(), output.memory.data(), output.memory.bytes());
    const int64_t size = output.memory.bytes() / SizeOf(output.dtype);
    const auto* halves = reinterpret_cast<const Bf16*>(host.data());
    const auto* floats = reinterpret_cast<const float*>(host.data());
    for (int64_t i = 0; i < size; ++i) {
      const float value = output.dtype == DType::kBf16 ? kernels::ToFloat(halves[i]) : floats[i];
      count += std::isfinite(value) ? 0 : 1;
    }
  }
  return count;
}

Timing Bench::Time(Replay replay, int num_sets, const std::function<void(int)>& enqueue) {
  PoisonOutputs();
  const int replays = options_.check ? 1 : options_.replays;
  const int warm_ups = options_.check ? 1 : kWarmUps;
  Events events(replays + 1);
  for (int i = 0; i < warm_ups; ++i) {
    if (i == warm_ups - 1) events.Record(0, stream());
    enqueue(i);
  }
  events.Record(1, stream());
  CheckCuda(cudaStreamSynchronize(stream()), "first calls");
  const double seconds = std::max(1e-7, events.SecondsBetween(0, 1));
  const double wanted = options_.check ? 1 : options_.replay_seconds / seconds;
  const int calls = RoundUp(static_cast<int>(std::clamp<double>(wanted, 1, kCallsMax)), num_sets);
  const auto enqueue_calls = [&] {
    for (int i = 0; i < calls; ++i) enqueue(i);
  };
  cudaGraphExec_t graph_exec = nullptr;
  if (replay == Replay::kGraph && options_.graphs) {
    cudaGraph_t graph = nullptr;
    CheckCuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "capture");
    enqueue_calls();
    CheckCuda(cudaStreamEndCapture(stream(), &graph), "capture");
    CheckCuda(cudaGraphInstantiate(&graph_exec, graph, 0), "graph");
    CheckCuda(cudaGraphDestroy(graph), "graph");
  }
  const auto run = [&] {
    if (graph_exec == nullptr) return enqueue_calls();
    CheckCuda(cudaGraphLaunch(graph_exec, stream()), "graph launch");
  };
  // All launches are in the queue before the first has ended, so that no host gap is timed.
  run();
  for (int i = 0; i < replays; ++i) {
    events.Record(i, stream());
    run();
  }
  events.Record(replays, stream());
  CheckCuda(cudaStreamSynchronize(stream()), "replays");
  if (graph_exec != nullptr) CheckCuda(cudaGraphExecDestroy(graph_exec), "graph");
  std::vector<double> us(static_cast<size_t>(replays));
  for (int i = 0; i < replays; ++i) {
    us[static_cast<size_t>(i)] = events.SecondsBetween(i, i + 1) / calls * 1e6;
  }
  std::sort(us.begin(), us.end());
  return {.median_us = us[us.size() / 2], .least_us = us.front(), .most_us = us.back()};
}

void Bench::PrintCeiling(const char* name, double value, const char* unit, std::string_view note) {
  std::printf("ceiling  %-10s %9.1f %s  %.*s\n", name, value, unit, static_cast<int>(note.size()),
              note.data());
  if (json_ == nullptr || value == 0) return;
  const nlohmann::ordered_json line = {
      {"kind", "ceiling"}, {"name", name}, {"value", value}, {"unit", unit}};
  std::fprintf(json_, "%s\n", line.dump().c_str());
  std::fflush(json_);
}

void Bench::RaiseClocks() {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end =
      Clock::now() + std::chrono::milliseconds(options_.check ? 0 : kRaiseClocksMs);
  const Buffer sink = backend_.Allocate(sizeof(uint32_t));
  while (Clock::now() < end) {
    CheckCuda(
        EnqueueStreamRead(device_values_.data(), device_values_.bytes(),
                          static_cast<uint32_t*>(sink.data()), backend_.info().num_sms, stream()),
        "read");
    CheckCuda(cudaStreamSynchronize(stream()), "read");
  }
}

void Bench::MeasureCeilings() {
  RaiseClocks();
  const int64_t bytes = int64_t{1} << (options_.check ? 16 : 30);
  const auto gbps = [](double moved, const Timing& timing) {
    return moved / timing.median_us * 1e-3;
  };
  {
    const Buffer from = RandomValues(bytes / 2);
    const Buffer to = backend_.Allocate(bytes);
    const Timing timing = Time(Replay::kGraph, 1, [&](int) {
      CheckCuda(cudaMemcpyAsync(to.data(), from.data(), static_cast<size_t>(bytes),
                                cudaMemcpyDeviceToDevice, stream()),
                "copy");
    });
    ceilings_.copy_gbps = gbps(2.0 * static_cast<double>(bytes), timing);
    PrintCeiling("copy", ceilings_.copy_gbps, "GB/s", "read and written, both counted");
  }
  {
    const Buffer from = RandomValues(bytes / 2);
    const Buffer sink = backend_.Allocate(sizeof(uint32_t));
    const Timing timing = Time(Replay::kGraph, 1, [&](int) {
      CheckCuda(EnqueueStreamRead(from.data(), bytes, static_cast<uint32_t*>(sink.data()),
                                  backend_.info().num_sms, stream()),
                "read");
    });
    ceilings_.read_gbps = gbps(static_cast<double>(bytes), timing);
    PrintCeiling("read", ceilings_.read_gbps, "GB/s", "read by a kernel");
  }
  std::string why = options_.check ? "a check" : library_ == nullptr ? "no cuBLASLt" : "";
  constexpr int64_t kSize = 8192;
  if (why.empty()) {
    const Buffer a = RandomValues(kSize * kSize);
    const Buffer b = RandomValues(kSize * kSize);
    const Buffer workspace = backend_.Allocate(kernels::CublasLt::kWorkspaceBytes);
    const kernels::Product product{.a = a.data(),
                                   .b = b.data(),
                                   .c = Output(DType::kBf16, {kSize, kSize}).raw(),
                                   .m = kSize,
                                   .n = kSize,
                                   .k = kSize};
    if (!library_->Enqueue(product, workspace.data(), stream())) why = "cuBLASLt refuses it";
    if (why.empty()) {
      const Timing timing = Time(Replay::kCalls, 1, [&](int) {
        FACET_CHECK(library_->Enqueue(product, workspace.data(), stream())) << "cublasLtMatmul";
      });
      FACET_CHECK_EQ(CountNotFinite(), 0);
      ceilings_.product_tflops = 2.0 * kSize * kSize * kSize / timing.median_us * 1e-6;
    }
    ForgetTensors();
  }
  PrintCeiling("product", ceilings_.product_tflops, "TFLOP/s",
               why.empty() ? "cuBLASLt bf16, 8192 x 8192 x 8192" : "skipped: " + why);
}

void Bench::Report(CaseFigures figures) {
  figures.num_not_finite = CountNotFinite();
  ++num_cases_;
  if (figures.num_not_finite > 0) ++num_failed_;
  const double us = figures.timing.median_us;
  const double byte_us = ceilings_.copy_gbps == 0 ? 0 : figures.bytes / ceilings_.copy_gbps * 1e-3;
  const double flop_us =
      ceilings_.product_tflops == 0 ? 0 : figures.flops / ceilings_.product_tflops * 1e-6;
  const bool unknown =
      ceilings_.product_tflops == 0 && figures.flops > kFlopsPerByteOfProducts * figures.bytes;
  const double floor_us = unknown ? 0 : std::max(byte_us, flop_us);
  const char* ceiling = unknown ? "none" : flop_us > byte_us ? "product" : "copy";
  const double share = floor_us / us;
  if (options_.check) figures.bar = {};
  const char* verdict = figures.num_not_finite > 0 ? "FAILED" : VerdictOf(figures.bar, share);
  std::printf(
      "%-18s %-22s %6lld  %9.2f (%.2f to %.2f) us  %7.1f GB/s %7.1f TFLOP/s  %5.1f %% of %s",
      figures.op.c_str(), figures.shape.c_str(), static_cast<long long>(figures.tokens), us,
      figures.timing.least_us, figures.timing.most_us, figures.bytes / us * 1e-3,
      figures.flops / us * 1e-6, share * 100, ceiling);
  if (figures.bar.must > 0) {
    std::printf("  [%.0f / %.0f] %s", figures.bar.must * 100, figures.bar.good * 100, verdict);
  }
  if (figures.num_not_finite > 0) {
    std::printf("  FAILED: %lld outputs are not finite",
                static_cast<long long>(figures.num_not_finite));
  }
  std::printf("\n");
  std::fflush(stdout);
  if (json_ == nullptr) return;
  nlohmann::ordered_json line = {{"kind", "kernel"},
                                 {"op", figures.op},
                                 {"shape", figures.shape},
                                 {"tokens", figures.tokens},
                                 {"median_us", us},
                                 {"least_us", figures.timing.least_us},
                                 {"most_us", figures.timing.most_us},
                                 {"bytes", figures.bytes},
                                 {"flops", figures.flops},
                                 {"floor_us", floor_us},
                                 {"ceiling", ceiling},
                                 {"share", share},
                                 {"must", figures.bar.must},
                                 {"good", figures.bar.good},
                                 {"verdict", verdict}};
  for (const auto& [name, size] : figures.sizes) line["sizes"][name] = size;
  std::fprintf(json_, "%s\n", line.dump().c_str());
  std::fflush(json_);
}

}  // namespace facet::bench
