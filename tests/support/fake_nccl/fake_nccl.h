// A stand-in for libnccl whose ranks are threads of one process and whose device memory is the
// host's; fake_nccl.cc is built as shared libraries that export NCCL's names. Tests reach its
// switches by dlsym.
//
// Streams are FakeStreams. A transfer completes in the thread of the rank that comes last, if all
// ranks ask for the same; else never, as with NCCL. A rank that is stopped takes its part out of
// its stream, and what the others wait for then never comes.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "worker/comm/device_stream.h"

namespace facet {

struct FakeNcclSwitches {
  std::atomic<int> version = 22809;
  std::atomic<bool> init_stays_in_progress = false;
  // From this transfer of this rank on (counted from 0) its communicator has failed; -1: never.
  std::atomic<int> failing_transfer = -1;
  std::atomic<int> failing_rank = 0;
  // Transfers between these two never complete; -1: none.
  std::atomic<int> stuck_ranks[2] = {-1, -1};
  // Counts.
  std::atomic<int> num_revoked = 0;
  std::atomic<int> num_aborted = 0;
  std::atomic<int> num_destroyed = 0;
};

// Of the library at this path.
inline FakeNcclSwitches& SwitchesOf(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  FACET_CHECK(library != nullptr) << dlerror();
  auto* find = reinterpret_cast<FakeNcclSwitches* (*)()>(dlsym(library, "FakeNccl"));
  FACET_CHECK(find != nullptr) << path;
  return *find();
}

class FakeStream : public worker::DeviceStream {
 public:
  // What the library counts up and down.
  std::atomic<int>& num_under_way() const { return num_under_way_; }

  void* handle() const override { return &num_under_way_; }

  StatusOr<bool> Idle() const override { return num_under_way_ == 0; }

 private:
  mutable std::atomic<int> num_under_way_ = 0;
};

}  // namespace facet
