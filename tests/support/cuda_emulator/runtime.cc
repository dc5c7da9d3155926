// The runtime calls of cuda_runtime.h. One device, "Emulated GPU". Null streams and blocking copies
// wait for everything.
#include "tests/support/cuda_emulator/runtime.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <set>
#include <utility>
#include <vector>

#include "tests/support/cuda_emulator/scheduler.h"

using facet::cuda_emulator::Enqueue;

struct EmulatedGraph {
  std::vector<std::function<void()>> nodes;
};

struct EmulatedGraphExec {
  std::vector<std::function<void()>> nodes;
};

struct EmulatedStream {
  std::deque<std::function<void()>> work;
  EmulatedGraph* capture = nullptr;

  void Drain() {
    while (!work.empty()) {
      const std::function<void()> next = std::move(work.front());
      work.pop_front();
      next();
    }
  }
};

struct EmulatedEvent {
  EmulatedStream* stream = nullptr;
  int64_t time_ns = 0;
};

namespace {

constexpr size_t kDeviceBytes = size_t{8} << 30;
constexpr size_t kDeviceAlignment = 256;

std::set<EmulatedStream*>& Streams() {
  static std::set<EmulatedStream*> streams;
  return streams;
}

void DrainAll() {
  for (EmulatedStream* stream : Streams()) stream->Drain();
}

cudaError_t AllocateNan(void** data, size_t bytes) {
  *data = nullptr;
  if (bytes > kDeviceBytes) return cudaErrorMemoryAllocation;
  if (posix_memalign(data, kDeviceAlignment, bytes == 0 ? 1 : bytes) != 0) {
    return cudaErrorMemoryAllocation;
  }
  std::memset(*data, 0xff, bytes);
  return cudaSuccess;
}

}  // namespace

namespace facet::cuda_emulator {

void Enqueue(cudaStream_t stream, std::function<void()> work) {
  if (stream == nullptr) {
    DrainAll();
    work();
  } else if (stream->capture != nullptr) {
    stream->capture->nodes.push_back(std::move(work));
  } else {
    stream->work.push_back(std::move(work));
  }
}

}  // namespace facet::cuda_emulator

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;  // Few, so that small tests fill the device as large models fill a real one.
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "Emulated GPU");
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = kDeviceBytes;
  *total_bytes = kDeviceBytes;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, size_t bytes) { return AllocateNan(data, bytes); }

cudaError_t cudaFree(void* data) {
  DrainAll();
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) { return AllocateNan(data, bytes); }

cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  DrainAll();
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(
    void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  Enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  Enqueue(stream, [=] { std::memset(data, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  Streams().insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  stream->Drain();
  Streams().erase(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr) {
    DrainAll();
  } else {
    stream->Drain();
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  DrainAll();
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->stream = stream;
  Enqueue(stream, [event] {
    event->time_ns = std::chrono::steady_clock::now().time_since_epoch().count();
  });
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return event->stream == nullptr ? cudaSuccess : cudaStreamSynchronize(event->stream);
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  *ms = static_cast<float>(end->time_ns - start->time_ns) * 1e-6F;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capture = new EmulatedGraph;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = std::exchange(stream->capture, nullptr);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new EmulatedGraphExec{graph->nodes};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const std::function<void()>& node : exec->nodes) Enqueue(stream, node);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
  }
  return "unknown error";
}

const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
