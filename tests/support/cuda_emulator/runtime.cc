// The runtime calls of cuda_runtime.h. One device, "Emulated GPU". Null streams and blocking copies
// wait for everything. Calls may come from several threads; one at a time is served, and whoever
// waits for a stream runs its work.
#include "tests/support/cuda_emulator/runtime.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "tests/support/cuda_emulator/scheduler.h"

using facet::cuda_emulator::Enqueue;

struct EmulatedNode {
  std::function<void()> work;
  facet::cuda_emulator::Description description;
};

struct EmulatedGraph {
  std::vector<EmulatedNode> nodes;
};

struct EmulatedGraphExec {
  std::vector<EmulatedNode> nodes;
};

namespace {

int64_t num_done = 0;
thread_local int64_t num_done_by_this_thread = 0;

}  // namespace

struct EmulatedStream {
  std::deque<std::function<void()>> work;
  EmulatedGraph* capture = nullptr;

  void RunNext() {
    const std::function<void()> next = std::move(work.front());
    work.pop_front();
    ++num_done;
    ++num_done_by_this_thread;
    next();
  }

  void Drain() {
    while (!work.empty()) RunNext();
  }
};

struct EmulatedEvent {
  EmulatedStream* stream = nullptr;
  int64_t num_recorded = 0;
  int64_t num_passed = 0;  // Of those recorded.
  int64_t time_ns = 0;
};

namespace {

std::recursive_mutex& Driver() {
  static std::recursive_mutex mutex;
  return mutex;
}

using Lock = std::lock_guard<std::recursive_mutex>;

constexpr size_t kDeviceBytes = size_t{8} << 30;
constexpr size_t kDeviceAlignment = 256;

std::set<EmulatedStream*>& Streams() {
  static std::set<EmulatedStream*> streams;
  return streams;
}

void DrainAll() {
  const Lock lock(Driver());
  for (EmulatedStream* stream : Streams()) stream->Drain();
}

template <typename... Values>
facet::cuda_emulator::Description Described(const Values&... values) {
  facet::cuda_emulator::Description description;
  (facet::cuda_emulator::Describe(values, description), ...);
  return description;
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

void Enqueue(cudaStream_t stream, std::function<void()> work, Description description) {
  const Lock lock(Driver());
  if (stream == nullptr) {
    DrainAll();
    work();
  } else if (stream->capture != nullptr) {
    stream->capture->nodes.push_back({std::move(work), std::move(description)});
  } else {
    stream->work.push_back(std::move(work));
  }
}

bool IsCapturing(cudaStream_t stream) { return stream != nullptr && stream->capture != nullptr; }

std::string FirstDifference(cudaGraphExec_t recorded, cudaGraph_t other) {
  if (recorded->nodes.size() != other->nodes.size()) {
    return std::to_string(recorded->nodes.size()) + " launches are recorded, not " +
           std::to_string(other->nodes.size());
  }
  for (size_t i = 0; i < recorded->nodes.size(); ++i) {
    if (recorded->nodes[i].description != other->nodes[i].description) {
      return "launch " + std::to_string(i) + " has other arguments";
    }
  }
  return {};
}

WorkDone CountWorkDone() {
  const Lock lock(Driver());
  return {.all = num_done, .by_this_thread = num_done_by_this_thread};
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
  const Lock lock(Driver());
  DrainAll();
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(
    void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  Enqueue(
      stream, [=] { std::memcpy(to, from, bytes); }, Described(to, from, bytes));
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  Enqueue(
      stream, [=] { std::memset(data, value, bytes); }, Described(data, value, bytes));
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Lock lock(Driver());
  *stream = new EmulatedStream;
  Streams().insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(Driver());
  stream->Drain();
  Streams().erase(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(Driver());
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
  const Lock lock(Driver());
  event->stream = stream;
  ++event->num_recorded;
  Enqueue(stream, [event] {
    ++event->num_passed;
    event->time_ns = std::chrono::steady_clock::now().time_since_epoch().count();
  });
  return cudaSuccess;
}

// Runs what is before the event and nothing behind it: a host that reads on must wait for more.
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(Driver());
  while (event->num_passed < event->num_recorded) event->stream->RunNext();
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock(Driver());
  *ms = static_cast<float>(end->time_ns - start->time_ns) * 1e-6F;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Lock lock(Driver());
  stream->capture = new EmulatedGraph;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(Driver());
  *graph = std::exchange(stream->capture, nullptr);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new EmulatedGraphExec{graph->nodes};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const Lock lock(Driver());
  for (const EmulatedNode& node : exec->nodes) Enqueue(stream, node.work);
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
