// The stream that a communicator of GPUs enqueues its transfers on, as far as the host has to ask
// it something. Without a CUDA header, so that everything above it is built and tested everywhere.
#pragma once

#include "base/status.h"

namespace facet::worker {

class DeviceStream {
 public:
  virtual ~DeviceStream() = default;

  // For NCCL: a cudaStream_t.
  virtual void* handle() const = 0;

  // Whether everything that was enqueued has run. INTERNAL if the device has failed.
  virtual StatusOr<bool> Idle() const = 0;
};

}  // namespace facet::worker
