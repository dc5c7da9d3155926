// The runtime calls of cuda_runtime.h. Eight devices, "Emulated GPU". Null streams and blocking
// copies wait for everything on the thread's device. Calls may come from several threads; one at a
// time is served, and whoever waits for a stream, or asks whether it is idle, runs its work. Where
// that has come to a transfer which other streams take part in, other threads are served meanwhile.
#include "tests/support/cuda_emulator/runtime.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/cuda_emulator/scheduler.h"
#include "tests/support/cuda_emulator/transfer_queue.h"

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

constexpr int kNumDevices = 8;

thread_local int current_device = 0;
int64_t num_done = 0;
thread_local int64_t num_done_by_this_thread = 0;

std::recursive_mutex& Driver() {
  static std::recursive_mutex mutex;
  return mutex;
}

using Lock = std::lock_guard<std::recursive_mutex>;

}  // namespace

struct EmulatedStream final : facet::TransferQueue {
  const int device = current_device;
  std::deque<std::function<bool()>> work;  // Each is called until it returns true.
  EmulatedGraph* capture = nullptr;

  // Whether the next piece of work has ended.
  bool RunNext() {
    if (!work.front()()) return false;
    work.pop_front();
    ++num_done;
    ++num_done_by_this_thread;
    return true;
  }

  bool Idle() {
    while (!work.empty()) {
      if (!RunNext()) return false;
    }
    return true;
  }

  void EnqueueTransfer(std::function<bool()> has_ended) override {
    const Lock lock(Driver());
    work.push_back(std::move(has_ended));
  }
};

struct EmulatedEvent {
  EmulatedStream* stream = nullptr;
  int64_t num_recorded = 0;
  int64_t num_passed = 0;  // Of those recorded.
  int64_t time_ns = 0;
};

namespace {

constexpr size_t kDeviceBytes = size_t{8} << 30;
constexpr size_t kDeviceAlignment = 256;

std::set<EmulatedStream*>& Streams() {
  static std::set<EmulatedStream*> streams;
  return streams;
}

// Of memory: by the thread that allocated it.
std::map<void*, int>& Devices() {
  static std::map<void*, int> devices;
  return devices;
}

// Runs streams' work until reached() says so.
template <typename Reached>
void RunUntil(const Reached& reached) {
  while (true) {
    {
      const Lock lock(Driver());
      if (reached()) return;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

// Calls then() when all streams of the device are idle, before anything else can come into them.
template <typename Then>
void WhenIdle(int device, const Then& then) {
  RunUntil([&] {
    for (EmulatedStream* stream : Streams()) {
      if (stream->device == device && !stream->Idle()) return false;
    }
    then();
    return true;
  });
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
  const Lock lock(Driver());
  Devices()[*data] = current_device;
  return cudaSuccess;
}

}  // namespace

namespace facet::cuda_emulator {

void Enqueue(cudaStream_t stream, std::function<void()> work, Description description) {
  if (stream == nullptr) {
    WhenIdle(current_device, work);
    return;
  }
  const Lock lock(Driver());
  if (stream->capture != nullptr) {
    stream->capture->nodes.push_back({std::move(work), std::move(description)});
  } else {
    stream->work.push_back([work = std::move(work)] {
      work();
      return true;
    });
  }
}

bool IsOfThisDevice(cudaStream_t stream) {
  return stream == nullptr || stream->device == current_device;
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
  *count = kNumDevices;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kNumDevices) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}

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
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(facet::cuda_emulator::options().smem_bytes);
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
  int device = current_device;
  {
    const Lock lock(Driver());
    if (const auto found = Devices().find(data); found != Devices().end()) {
      device = found->second;
      Devices().erase(found);
    }
  }
  WhenIdle(device, [] {});
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) { return AllocateNan(data, bytes); }

cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }

// CUDA takes null pointers where nothing is copied.
static void Copy(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  WhenIdle(current_device, [&] { Copy(to, from, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(
    void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  Enqueue(
      stream, [=] { Copy(to, from, bytes); }, Described(to, from, bytes));
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
  cudaStreamSynchronize(stream);
  const Lock lock(Driver());
  Streams().erase(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr) return cudaDeviceSynchronize();
  RunUntil([stream] { return stream->Idle(); });
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock(Driver());
  return stream->Idle() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize() {
  WhenIdle(current_device, [] {});
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
  RunUntil([event] {
    while (event->num_passed < event->num_recorded) {
      if (!event->stream->RunNext()) return false;
    }
    return true;
  });
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
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
  }
  return "unknown error";
}

const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
