// A stand-in for libnccl whose ranks are threads of one process and whose device memory is the
// host's; fake_nccl.cc is built as shared libraries that export NCCL's names. Tests reach its
// switches by dlsym.
//
// Streams are FakeStreams, or the emulator's. A transfer takes place when the streams of all ranks
// have come to it, if all ask for the same; else never, as with NCCL. A rank that is stopped takes
// its part out of its stream, and what the others wait for then never comes.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <utility>

#include "base/check.h"
#include "kernels/device_stream.h"
#include "tests/support/cuda_emulator/transfer_queue.h"

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

// A stream of transfers alone. One thread uses it.
class FakeStream : public kernels::DeviceStream, private TransferQueue {
 public:
  void* handle() const override {
    return const_cast<TransferQueue*>(static_cast<const TransferQueue*>(this));
  }

  void MakeCurrent() const override {}

  bool Idle() const override {
    while (!transfers_.empty() && transfers_.front()()) transfers_.pop_front();
    return transfers_.empty();
  }

 private:
  void EnqueueTransfer(std::function<bool()> has_ended) override {
    transfers_.push_back(std::move(has_ended));
    Idle();  // Runs it, if it is the next.
  }

  mutable std::deque<std::function<bool()>> transfers_;
};

}  // namespace facet
