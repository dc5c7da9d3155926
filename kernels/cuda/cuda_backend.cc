#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/packed_layout.h"
#include "kernels/host_sampling.h"

namespace facet::kernels {
namespace {

constexpr int64_t kStagingBytesMin = 1 << 20;
constexpr int64_t kAlignment = 64;
// Weights go to the device through two pinned pieces of this size.
constexpr int64_t kLoadBytes = int64_t{32} << 20;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// The first error of several calls is kept.
int Attribute(cudaDeviceAttr attribute, int device, cudaError_t& error) {
  int value = 0;
  const cudaError_t own_error = cudaDeviceGetAttribute(&value, attribute, device);
  if (error == cudaSuccess) error = own_error;
  return value;
}

}  // namespace

std::string CudaBackend::Probe(int device, CudaDeviceInfo& info) {
  int num_devices = 0;
  cudaError_t error = cudaGetDeviceCount(&num_devices);
  if (error != cudaSuccess) {
    return std::string("no CUDA device can be used: ") + cudaGetErrorString(error);
  }
  if (device < 0 || device >= num_devices) {
    return "device is cuda:" + std::to_string(device) + "; this machine has " +
           std::to_string(num_devices);
  }
  cudaDeviceProp properties{};
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  if (cudaSetDevice(device) != cudaSuccess ||
      cudaGetDeviceProperties(&properties, device) != cudaSuccess ||
      cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) {
    return "cuda:" + std::to_string(device) +
           " does not answer: " + cudaGetErrorString(cudaGetLastError());
  }
  info = {.name = properties.name,
          .compute_capability = Attribute(cudaDevAttrComputeCapabilityMajor, device, error) * 10 +
                                Attribute(cudaDevAttrComputeCapabilityMinor, device, error),
          .num_sms = Attribute(cudaDevAttrMultiProcessorCount, device, error),
          .smem_bytes = Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device, error),
          .memory_bytes = static_cast<int64_t>(total_bytes),
          .free_bytes = static_cast<int64_t>(free_bytes)};
  if (error != cudaSuccess) {
    return "cuda:" + std::to_string(device) + " does not answer: " + cudaGetErrorString(error);
  }
  if (info.compute_capability < 80) {
    return info.name + " has compute capability " + std::to_string(info.compute_capability / 10) +
           "." + std::to_string(info.compute_capability % 10) + "; at least 8.0 is needed";
  }
  if (info.smem_bytes < kSmemBytesMin) {
    return info.name + " has " + std::to_string(info.smem_bytes / 1024) +
           " KiB of shared memory for a block; at least " + std::to_string(kSmemBytesMin / 1024) +
           " are needed (compute capability 8.0, 9.0 or 10.0)";
  }
  return {};
}

CudaBackend::CudaBackend(const CudaOptions& options) : options_(options) {
  const std::string problem = Probe(options.device, info_);
  FACET_CHECK(problem.empty()) << problem;
  if (options.small_blocks) info_.smem_bytes = kSmemBytesMin;
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  for (StepPiece& step : steps_) {
    Check(cudaEventCreateWithFlags(&step.sent, cudaEventDisableTiming), "event");
    Check(cudaEventCreateWithFlags(&step.begun, cudaEventDefault), "event");
    Check(cudaEventCreateWithFlags(&step.ended, cudaEventDefault), "event");
  }
}

CudaBackend::~CudaBackend() {
  Check(cudaStreamSynchronize(stream_), "last step");
  CudaBackend::EndLoading();
  for (StepPiece& step : steps_) {
    for (const cudaEvent_t event : {step.sent, step.begun, step.ended}) {
      Check(cudaEventDestroy(event), "event");
    }
  }
  for (Buffer& buffer : scratch_) buffer = Buffer();
  Check(cudaStreamDestroy(stream_), "stream");
}

std::string CudaBackend::name() const {
  return "cuda/sm" + std::to_string(info_.compute_capability);
}

std::string CudaBackend::kernel_table() const {
  return options_.cublas_lt == nullptr ? "exact-1" : "fast-1";
}

void CudaBackend::OwnStream::MakeCurrent() const {
  Check(cudaSetDevice(backend_.options_.device), "device");
}

bool CudaBackend::OwnStream::Idle() const {
  const cudaError_t error = cudaStreamQuery(backend_.stream_);
  if (error == cudaErrorNotReady) return false;
  Check(error, "stream");
  return true;
}

MemoryOffer CudaBackend::Memory() const {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  Check(cudaMemGetInfo(&free_bytes, &total_bytes), "free memory");
  return {.free_bytes = static_cast<int64_t>(free_bytes), .holds_tables = !options_.tables_on_host};
}

Buffer CudaBackend::Allocate(int64_t bytes) {
  FACET_CHECK(!capturing_) << "an op that is recorded allocates" << bytes << "bytes";
  void* data = nullptr;
  // Whole 16-byte loads of the last element stay inside.
  const auto size = static_cast<size_t>(RoundUp(std::max<int64_t>(bytes, 1), kAlignment));
  const cudaError_t error = cudaMalloc(&data, size);
  FACET_CHECK(error == cudaSuccess)
      << bytes << "bytes of device memory:" << cudaGetErrorString(error);
  Check(cudaMemsetAsync(data, 0, size, stream_), "memset");
  return Buffer(data, bytes, [](void* memory) { Check(cudaFree(memory), "free"); });
}

Buffer CudaBackend::AllocatePinned(int64_t bytes) {
  void* data = nullptr;
  Check(cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocMapped), "pinned memory");
  return Buffer(data, bytes, [](void* memory) { Check(cudaFreeHost(memory), "free"); });
}

void CudaBackend::CopyToDevice(void* device, const void* host, int64_t bytes) {
  FACET_CHECK(!capturing_) << "an op that is recorded waits";
  // A copy from pageable memory returns once the source has been read.
  Check(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
        "copy to the device");
  Check(cudaStreamSynchronize(stream_), "copy to the device");
}

PackedWeight CudaBackend::Pack(const ConstTensorView& weight, WeightFormat format) {
  FACET_CHECK(format == WeightFormat::kBf16);
  PackedWeight packed{.rows = weight.dim(0), .cols = weight.dim(1), .format = format};
  packed.data = Allocate(PackedElements(packed.rows, packed.cols) * SizeOf(DType::kBf16));
  const int64_t row_bytes = packed.cols * SizeOf(weight.dtype());
  // Whole tiles of rows at a time: the host copies one piece while the device packs the other.
  const int64_t rows_at_once =
      std::max<int64_t>(kTileRows, kLoadBytes / row_bytes / kTileRows * kTileRows);
  const auto* source = static_cast<const std::byte*>(weight.raw());
  for (int64_t row = 0; row < packed.rows; row += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, packed.rows - row);
    LoadPiece& piece = NextLoadPiece(rows * row_bytes);
    ReadHost(piece.host.data(), source + row * row_bytes, rows * row_bytes);
    Check(cudaMemcpyAsync(piece.device.data(), piece.host.data(),
                          static_cast<size_t>(rows * row_bytes), cudaMemcpyHostToDevice, stream_),
          "copy of weights");
    Check(LaunchPack(
              {.source = piece.device.data(),
               .source_is_f32 = weight.dtype() == DType::kF32,
               .rows = rows,
               .cols = packed.cols,
               .packed = static_cast<Bf16*>(packed.data.data()) + PackedElements(row, packed.cols)},
              stream_),
          "pack");
    Check(cudaEventRecord(piece.copied, stream_), "event");
  }
  return packed;
}

void CudaBackend::ReadHost(void* to, const void* from, int64_t bytes) const {
  if (read_host_) {
    read_host_(to, from, bytes);
  } else {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
}

CudaBackend::LoadPiece& CudaBackend::NextLoadPiece(int64_t bytes) {
  LoadPiece& piece = load_pieces_[load_index_];
  load_index_ = 1 - load_index_;
  if (piece.copied == nullptr) {
    Check(cudaEventCreateWithFlags(&piece.copied, cudaEventDisableTiming), "event");
  } else {
    Check(cudaEventSynchronize(piece.copied), "copy of weights");
  }
  if (piece.host.bytes() < bytes) {
    piece.host = AllocatePinned(bytes);
    piece.device = Allocate(bytes);
  }
  return piece;
}

void CudaBackend::EndLoading() {
  read_host_ = nullptr;
  for (LoadPiece& piece : load_pieces_) {
    if (piece.copied == nullptr) continue;
    Check(cudaEventSynchronize(piece.copied), "copy of weights");
    Check(cudaEventDestroy(piece.copied), "event");
    piece = LoadPiece();
  }
}

Buffer CudaBackend::Upload(const ConstTensorView& host, DType dtype) {
  const int64_t count = host.num_elements();
  Buffer copy = Allocate(count * SizeOf(dtype));
  if (host.dtype() == dtype) {
    CopyToDevice(copy.data(), host.raw(), count * SizeOf(dtype));
    return copy;
  }
  std::vector<std::byte> converted(static_cast<size_t>(count * SizeOf(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == DType::kBf16) {
      reinterpret_cast<Bf16*>(converted.data())[i] = ToBf16(host.as<float>()[i]);
    } else {
      reinterpret_cast<float*>(converted.data())[i] = ToFloat(host.as<Bf16>()[i]);
    }
  }
  CopyToDevice(copy.data(), converted.data(), static_cast<int64_t>(converted.size()));
  return copy;
}

HostTable CudaBackend::KeepTable(const ConstTensorView& host) {
  const int64_t bytes = host.num_elements() * SizeOf(host.dtype());
  HostTable table;
  if (options_.tables_on_host) {
    table.owner = AllocatePinned(bytes);
    ReadHost(table.owner.data(), host.raw(), bytes);
  } else {
    table.owner = Allocate(bytes);
    const auto* source = static_cast<const std::byte*>(host.raw());
    for (int64_t at = 0; at < bytes; at += kLoadBytes) {
      const int64_t size = std::min(kLoadBytes, bytes - at);
      LoadPiece& piece = NextLoadPiece(size);
      ReadHost(piece.host.data(), source + at, size);
      Check(cudaMemcpyAsync(static_cast<std::byte*>(table.owner.data()) + at, piece.host.data(),
                            static_cast<size_t>(size), cudaMemcpyHostToDevice, stream_),
            "copy of a table");
      Check(cudaEventRecord(piece.copied, stream_), "event");
    }
  }
  table.view = ConstTensorView(table.owner.data(), host.dtype(), {host.dim(0), host.dim(1)});
  return table;
}

// The step as the host sees it. The tokens lie in pinned memory once the event has passed.
class CudaBackend::CudaStep final : public StepInFlight {
 public:
  CudaStep(CudaBackend& backend, StepPiece& piece) : backend_(backend), piece_(piece) {}

  CudaStep(const CudaStep&) = delete;
  CudaStep& operator=(const CudaStep&) = delete;

  ~CudaStep() override { piece_.in_flight = false; }

  bool draws_on_host() const override { return !piece_.host_draws.empty(); }

  StepOutcome Wait() override {
    Check(cudaEventSynchronize(piece_.ended), "step");
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, piece_.begun, piece_.ended), "event");
    StepOutcome outcome{.device_ns = std::llround(ms * 1e6)};
    const auto* drawn = static_cast<const DrawnToken*>(piece_.drawn.data());
    for (int64_t i = 0; i < piece_.num_rows; ++i) {
      outcome.tokens.push_back({.id = drawn[i].id, .finite = drawn[i].finite != 0});
    }
    DrawHostRows(outcome.tokens);
    return outcome;
  }

 private:
  void DrawHostRows(std::vector<SampledToken>& tokens) {
    std::vector<float> scratch(draws_on_host() ? static_cast<size_t>(piece_.vocab) : 0);
    const auto* logits = static_cast<const float*>(piece_.host_logits.data());
    for (const HostDraw& draw : piece_.host_draws) {
      SampledToken& token = tokens[draw.index];
      token = SampleOnHost(draw.row, logits, piece_.vocab, scratch.data());
      logits += piece_.vocab;
      if (draw.row.slot < 0 || !token.finite) continue;
      backend_.CopyToDevice(piece_.last_tokens + draw.row.slot, &token.id, sizeof(token.id));
    }
  }

  CudaBackend& backend_;
  StepPiece& piece_;
};

void CudaBackend::BeginStep() {
  device_stream_.MakeCurrent();  // This thread may be another than the one that made the backend.
  step_index_ = 1 - step_index_;
  StepPiece& step = steps_[step_index_];
  FACET_CHECK(!step.in_flight) << "two steps in flight already";
  Check(cudaEventSynchronize(step.sent), "step before the last");
  staged_sent_ = 0;
  staged_end_ = 0;
  attention_plans_.clear();
  staged_key_.clear();
  step.num_rows = 0;
  step.host_draws.clear();
  Check(cudaEventRecord(step.begun, stream_), "event");
}

std::unique_ptr<StepInFlight> CudaBackend::EndStep() {
  StepPiece& step = steps_[step_index_];
  Check(cudaEventRecord(step.ended, stream_), "event");
  step.in_flight = true;
  return std::make_unique<CudaStep>(*this, step);
}

const void* CudaBackend::Stage(const void* host, int64_t bytes) {
  FACET_CHECK(!capturing_) << "an op that is recorded stages memory";
  if (bytes == 0) return nullptr;
  // Lists that grow from step to step move the ones behind them seldom.
  const auto reserved =
      std::max(kAlignment, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(bytes))));
  const int64_t room = std::min(staging_.bytes(), steps_[step_index_].staged.bytes());
  if (staged_end_ + reserved > room) GrowStaging(reserved);
  const int64_t at = staged_end_;
  staged_end_ += reserved;
  std::memcpy(static_cast<std::byte*>(steps_[step_index_].staged.data()) + at, host,
              static_cast<size_t>(bytes));
  const std::byte* device = static_cast<std::byte*>(staging_.data()) + at;
  staged_key_.push_back(reinterpret_cast<int64_t>(device));
  return device;
}

void CudaBackend::GrowStaging(int64_t bytes) {
  StepPiece& step = steps_[step_index_];
  SendStaged();
  Check(cudaStreamSynchronize(stream_), "staging");
  if (staged_end_ + bytes > staging_.bytes()) {
    // What was staged before stays where it is: this step will read it.
    const int64_t size = std::max({kStagingBytesMin, 2 * staging_.bytes(), 2 * bytes});
    if (staging_.data() != nullptr) retired_.push_back(std::move(staging_));
    staging_ = Allocate(size);
    staged_sent_ = 0;
    staged_end_ = 0;
  }
  step.staged = AllocatePinned(staging_.bytes());
}

void CudaBackend::SendStaged() {
  if (staged_sent_ == staged_end_) return;
  StepPiece& step = steps_[step_index_];
  Check(cudaMemcpyAsync(static_cast<std::byte*>(staging_.data()) + staged_sent_,
                        static_cast<std::byte*>(step.staged.data()) + staged_sent_,
                        static_cast<size_t>(staged_end_ - staged_sent_), cudaMemcpyHostToDevice,
                        stream_),
        "staging");
  Check(cudaEventRecord(step.sent, stream_), "event");
  staged_sent_ = staged_end_;
}

ConstTensorView CudaBackend::StageInts(std::span<const int32_t> host) {
  const auto count = static_cast<int64_t>(host.size());
  staged_key_.push_back(count);
  return ConstTensorView(Stage(host.data(), count * SizeOf(DType::kI32)), DType::kI32, {count});
}

AttentionBatch CudaBackend::StageRows(std::span<const AttentionRow> rows,
                                      const AttentionShape& shape) {
  std::vector<DeviceAttentionRow> device_rows;
  std::vector<int32_t> blocks;
  for (const AttentionRow& row : rows) {
    device_rows.push_back({.first_position = row.first_position,
                           .first_token = row.first_token,
                           .num_tokens = row.num_tokens,
                           .first_block = row.first_block,
                           .blocks_begin = static_cast<int32_t>(blocks.size())});
    blocks.insert(blocks.end(), row.blocks.begin(), row.blocks.end());
  }
  const AttentionPlan& plan = attention_plans_.emplace_back(PlanAttention(rows, shape));
  staged_key_.push_back(std::ssize(rows));
  for (const AttentionPart* part : {&plan.decode, &plan.prefill}) {
    staged_key_.insert(staged_key_.end(),
                       {part->num_entries, part->num_blocks, part->num_slots, part->side_by_side,
                        part->folds_apart, part->by_warpgroups});
  }
  return {.rows = rows,
          .device_rows = StageArray(device_rows),
          .device_blocks = StageArray(blocks),
          .plan = static_cast<int>(attention_plans_.size()) - 1};
}

void CudaBackend::RunRecorded(std::span<const int64_t> key, const std::function<void()>& work) {
  SendStaged();
  planned_ = {};  // A recording goes by no plan from outside.
  GraphCache::Key whole_key(key.begin(), key.end());
  whole_key.insert(whole_key.end(), staged_key_.begin(), staged_key_.end());
  whole_key.push_back(scratch_generation_);
  GraphCache::Entry* entry = options_.record_steps ? graphs_.Use(whole_key) : nullptr;
  if (entry == nullptr) {
    work();
    return;
  }
  if (entry->graph == nullptr) {
    const cudaGraph_t graph = Capture(work);
    Check(cudaGraphInstantiate(&entry->graph, graph, 0), "graph of a step");
    Check(cudaGraphDestroy(graph), "graph of a step");
  } else {
    ++num_replays_;
    if (options_.compare_replay) {
      const cudaGraph_t now = Capture(work);
      const std::string difference = options_.compare_replay(entry->graph, now);
      FACET_CHECK(difference.empty())
          << "a step's key does not tell its launches apart:" << difference;
      Check(cudaGraphDestroy(now), "graph of a step");
    }
  }
  Check(cudaGraphLaunch(entry->graph, stream_), "graph of a step");
}

cudaGraph_t CudaBackend::Capture(const std::function<void()>& work) {
  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture of a step");
  capturing_ = true;
  work();
  capturing_ = false;
  cudaGraph_t graph = nullptr;
  Check(cudaStreamEndCapture(stream_, &graph), "capture of a step");
  return graph;
}

void CudaBackend::CopyToHost(void* host, const void* device, int64_t bytes) {
  FACET_CHECK(!capturing_) << "an op that is recorded waits";
  Check(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
        "copy to the host");
  Check(cudaStreamSynchronize(stream_), "copy to the host");
}

void* CudaBackend::GrowScratch(Scratch purpose, int64_t bytes) {
  Buffer& buffer = scratch_[static_cast<size_t>(purpose)];
  if (buffer.bytes() < bytes) {
    buffer = Allocate(bytes);
    ++scratch_generation_;
  }
  return buffer.data();
}

const CudaBackend::ExpertTable& CudaBackend::ExpertPointers(
    const std::vector<ExpertWeights>& experts) {
  std::vector<const uint4*> pointers;
  pointers.reserve(3 * experts.size());
  const auto add = [&](const PackedWeight& weight) {
    FACET_CHECK(weight.format == WeightFormat::kBf16);
    pointers.push_back(static_cast<const uint4*>(weight.data.data()));
  };
  for (const ExpertWeights& expert : experts) {
    add(expert.gate);
    add(expert.up);
  }
  for (const ExpertWeights& expert : experts) add(expert.down);
  ExpertTable& table = expert_tables_[experts.data()];
  if (table.host != pointers) {
    const auto bytes = std::ssize(pointers) * static_cast<int64_t>(sizeof(void*));
    table.device = Allocate(bytes);
    CopyToDevice(table.device.data(), pointers.data(), bytes);
    table.up = static_cast<const uint4* const*>(table.device.data());
    table.down = table.up + 2 * experts.size();
    table.host = std::move(pointers);
  }
  return table;
}

void CudaBackend::Check(cudaError_t error, const char* what) {
  FACET_CHECK(error == cudaSuccess) << what << ":" << cudaGetErrorString(error);
}

}  // namespace facet::kernels
