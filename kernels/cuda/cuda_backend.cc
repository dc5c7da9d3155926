#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/packed_layout.h"

namespace facet::kernels {
namespace {

constexpr int64_t kStagingBytesMin = 1 << 20;
constexpr int64_t kStagingAlignment = 64;
// Weights go to the device through two pinned pieces of this size.
constexpr int64_t kLoadBytes = int64_t{32} << 20;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

int Attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess ? value : 0;
}

}  // namespace

std::string CudaBackend::Probe(int device, CudaDeviceInfo& info) {
  int num_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&num_devices);
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
          .compute_capability = Attribute(cudaDevAttrComputeCapabilityMajor, device) * 10 +
                                Attribute(cudaDevAttrComputeCapabilityMinor, device),
          .num_sms = Attribute(cudaDevAttrMultiProcessorCount, device),
          .memory_bytes = static_cast<int64_t>(total_bytes),
          .free_bytes = static_cast<int64_t>(free_bytes)};
  if (info.compute_capability < 80) {
    return info.name + " has compute capability " + std::to_string(info.compute_capability / 10) +
           "." + std::to_string(info.compute_capability % 10) + "; at least 8.0 is needed";
  }
  return {};
}

CudaBackend::CudaBackend(const CudaOptions& options) : options_(options) {
  const std::string problem = Probe(options.device, info_);
  FACET_CHECK(problem.empty()) << problem;
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  for (Staging& staging : staging_) {
    Check(cudaEventCreateWithFlags(&staging.copied, cudaEventDisableTiming), "event");
  }
}

CudaBackend::~CudaBackend() {
  Check(cudaStreamSynchronize(stream_), "last step");
  CudaBackend::EndLoading();
  for (Staging& staging : staging_) {
    staging.host = Buffer();
    staging.device = Buffer();
    Check(cudaEventDestroy(staging.copied), "event");
  }
  for (Buffer& buffer : scratch_) buffer = Buffer();
  Check(cudaStreamDestroy(stream_), "stream");
}

std::string CudaBackend::name() const {
  return "cuda/sm" + std::to_string(info_.compute_capability);
}

Buffer CudaBackend::Allocate(int64_t bytes) {
  void* data = nullptr;
  // Whole 16-byte loads of the last element stay inside.
  const auto size = static_cast<size_t>(RoundUp(std::max<int64_t>(bytes, 1), kStagingAlignment));
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
    Staging& piece = NextLoadPiece(rows * row_bytes);
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

CudaBackend::Staging& CudaBackend::NextLoadPiece(int64_t bytes) {
  Staging& piece = load_pieces_[load_index_];
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
  for (Staging& piece : load_pieces_) {
    if (piece.copied == nullptr) continue;
    Check(cudaEventSynchronize(piece.copied), "copy of weights");
    Check(cudaEventDestroy(piece.copied), "event");
    piece = Staging();
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
      Staging& piece = NextLoadPiece(size);
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

void CudaBackend::BeginStep() {
  Check(cudaEventRecord(staging_[staging_index_].copied, stream_), "event");
  staging_index_ = 1 - staging_index_;
  Staging& staging = staging_[staging_index_];
  Check(cudaEventSynchronize(staging.copied), "step before the last");
  staging.used = 0;
}

const void* CudaBackend::Stage(const void* host, int64_t bytes) {
  if (bytes == 0) return nullptr;
  Staging& staging = staging_[staging_index_];
  if (staging.used + bytes > staging.host.bytes()) {
    // What was staged before stays where it is until the device has read it.
    Check(cudaStreamSynchronize(stream_), "staging");
    retired_.push_back(std::move(staging.device));
    const int64_t size = std::max(kStagingBytesMin, 2 * RoundUp(bytes, kStagingAlignment));
    staging.host = AllocatePinned(size);
    staging.device = Allocate(size);
    staging.used = 0;
  }
  std::byte* pinned = static_cast<std::byte*>(staging.host.data()) + staging.used;
  std::byte* device = static_cast<std::byte*>(staging.device.data()) + staging.used;
  staging.used += RoundUp(bytes, kStagingAlignment);
  std::memcpy(pinned, host, static_cast<size_t>(bytes));
  Check(
      cudaMemcpyAsync(device, pinned, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
      "staging");
  return device;
}

ConstTensorView CudaBackend::StageInts(std::span<const int32_t> host) {
  const auto count = static_cast<int64_t>(host.size());
  return ConstTensorView(Stage(host.data(), count * SizeOf(DType::kI32)), DType::kI32, {count});
}

AttentionBatch CudaBackend::StageRows(std::span<const AttentionRow> rows) {
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
  return {
      .rows = rows, .device_rows = StageArray(device_rows), .device_blocks = StageArray(blocks)};
}

void CudaBackend::CopyToHost(void* host, const void* device, int64_t bytes) {
  Check(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
        "copy to the host");
  Check(cudaStreamSynchronize(stream_), "copy to the host");
}

void* CudaBackend::GrowScratch(Scratch purpose, int64_t bytes) {
  Buffer& buffer = scratch_[static_cast<size_t>(purpose)];
  if (buffer.bytes() < bytes) buffer = Allocate(bytes);
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
    const auto bytes = static_cast<int64_t>(pointers.size() * sizeof(pointers[0]));
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
