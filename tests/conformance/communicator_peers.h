// The communicators that one conformance program tries: threads (local, NCCL's stand-in) or
// processes (gloo, NCCL). Each program links one definition of RunRanks and of the blocks' memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "worker/comm/communicator.h"

namespace facet::worker {

// What a rank of a test has beside its communicator.
class RankSeat {
 public:
  RankSeat(int32_t rank, int32_t num_ranks) : rank_(rank), num_ranks_(num_ranks) {}

  virtual ~RankSeat() = default;

  int32_t rank() const { return rank_; }

  int32_t num_ranks() const { return num_ranks_; }

  bool last() const { return rank_ == num_ranks_ - 1; }

  virtual StatusOr<std::unique_ptr<Communicator>> Form(int64_t epoch_min,
                                                       absl::Duration timeout) = 0;

  // Whether a missed deadline of a transfer names the rank that did not come.
  virtual bool names_late_rank() const { return true; }

  // Ends this rank without a word to the others, as far as its kind can: a process is killed.
  virtual void Vanish(std::unique_ptr<Communicator> communicator) = 0;

 private:
  const int32_t rank_;
  const int32_t num_ranks_;
};

// What one rank does; returns what went wrong, or nothing.
using RankBody = std::function<std::string(RankSeat& seat)>;

// Runs all ranks at once and returns what each said. A rank that does not end within 30 s is ended
// and says so.
std::vector<std::string> RunRanks(int32_t num_ranks, const RankBody& body);

// Memory that the peer's transfers and the host can read and write (host_blocks.cc, or the GPU's).
void* AllocateBlocks(size_t bytes);
void FreeBlocks(void* blocks);

template <typename T>
struct BlockAllocator {
  using value_type = T;

  T* allocate(size_t count) { return static_cast<T*>(AllocateBlocks(count * sizeof(T))); }

  void deallocate(T* blocks, size_t /*count*/) { FreeBlocks(blocks); }

  bool operator==(const BlockAllocator&) const = default;
};

// What a test gives to transfers.
using Blocks = std::vector<std::byte, BlockAllocator<std::byte>>;

}  // namespace facet::worker
