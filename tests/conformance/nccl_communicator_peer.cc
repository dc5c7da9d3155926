// NCCL's communicator over the real library: ranks are processes on one GPU, each of which NCCL
// takes for a host of its own, so that they talk through sockets on loopback. Right or wrong shows
// here, and no time means anything. FACET_NCCL_LIBRARY names the library where the loader does not
// find it.
//
// Not for RanksThatDisagree*: what NCCL does with blocks of different sizes is undefined.
#include <cuda_runtime.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>

#include "base/check.h"
#include "tests/conformance/process_ranks.h"
#include "worker/comm/nccl_communicator.h"

namespace facet::worker {
namespace {

void Check(cudaError_t error) { FACET_CHECK(error == cudaSuccess) << cudaGetErrorString(error); }

class CudaStream : public kernels::DeviceStream {
 public:
  CudaStream() { Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }

  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  ~CudaStream() override { Check(cudaStreamDestroy(stream_)); }

  void* handle() const override { return stream_; }

  void MakeCurrent() const override { Check(cudaSetDevice(0)); }

  bool Idle() const override {
    const cudaError_t error = cudaStreamQuery(stream_);
    if (error == cudaErrorNotReady) return false;
    Check(error);
    return true;
  }

 private:
  cudaStream_t stream_ = nullptr;
};

class NcclSeat : public RankSeat {
 public:
  NcclSeat(int32_t rank, int32_t num_ranks, std::string rendezvous)
      : RankSeat(rank, num_ranks), rendezvous_(std::move(rendezvous)) {}

  StatusOr<std::unique_ptr<Communicator>> Form(int64_t epoch_min, absl::Duration timeout) override {
    const char* library = std::getenv("FACET_NCCL_LIBRARY");
    NcclOptions options{.control = {.rank = rank(),
                                    .num_ranks = num_ranks(),
                                    .epoch_min = epoch_min,
                                    .rendezvous_address = rendezvous_,
                                    .group_key = "key of the test"},
                        .stream = &stream_,
                        .await = NcclAwait::kHost};
    if (library != nullptr) options.library = library;
    return FormNccl(options, timeout);
  }

  bool names_late_rank() const override { return false; }

  void Vanish(std::unique_ptr<Communicator> /*communicator*/) override { std::raise(SIGKILL); }

 private:
  const std::string rendezvous_;
  const CudaStream stream_;
};

}  // namespace

std::unique_ptr<RankSeat> TakeProcessSeat(int32_t rank,
                                          int32_t num_ranks,
                                          const std::string& rendezvous) {
  // NCCL 2.28 refuses two ranks on one GPU of one host, and takes this for the host's name.
  setenv("NCCL_HOSTID", StrCat("rank-", rank).c_str(), 1);
  setenv("NCCL_SOCKET_IFNAME", "lo", 1);
  setenv("NCCL_IB_DISABLE", "1", 1);
  setenv("NCCL_MNNVL_ENABLE", "0", 1);
  setenv("NCCL_MAX_CTAS", "4", 1);  // All ranks' kernels share one GPU.
  Check(cudaSetDevice(0));
  return std::make_unique<NcclSeat>(rank, num_ranks, rendezvous);
}

// Managed: the host reads and writes it where no transfer is under way.
void* AllocateBlocks(size_t bytes) {
  void* blocks = nullptr;
  Check(cudaMallocManaged(&blocks, bytes));
  return blocks;
}

void FreeBlocks(void* blocks) { Check(cudaFree(blocks)); }

}  // namespace facet::worker
