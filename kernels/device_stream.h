// The stream of a backend whose ops are enqueued, for a library that enqueues there too (NCCL).
// Without a CUDA header, so that what stands above it is built and tested everywhere.
#pragma once

namespace facet::kernels {

class DeviceStream {
 public:
  virtual ~DeviceStream() = default;

  // A cudaStream_t.
  virtual void* handle() const = 0;

  // From now on the calling thread's calls of CUDA mean the stream's device.
  virtual void MakeCurrent() const = 0;

  // Whether everything that was enqueued has run. Any thread. Dies if the device has failed.
  virtual bool Idle() const = 0;
};

}  // namespace facet::kernels
