// NCCL's communicator over tests/support/fake_nccl/fake_nccl.cc: ranks are threads with a stream
// each. Groups of an odd size use the library that lacks what NCCL 2.28.3 may lack.
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/reserved_port.h"
#include "tests/conformance/communicator_peers.h"
#include "tests/support/fake_nccl/fake_nccl.h"
#include "worker/comm/nccl_communicator.h"

namespace facet::worker {
namespace {

std::string LibraryFor(int32_t num_ranks) {
  return num_ranks % 2 == 1 ? FAKE_NCCL_2_28_3 : FAKE_NCCL;
}

class FakeNcclSeat : public RankSeat {
 public:
  FakeNcclSeat(int32_t rank, int32_t num_ranks, std::string rendezvous)
      : RankSeat(rank, num_ranks), rendezvous_(std::move(rendezvous)) {}

  StatusOr<std::unique_ptr<Communicator>> Form(int64_t epoch_min, absl::Duration timeout) override {
    NcclOptions options{.control = {.rank = rank(),
                                    .num_ranks = num_ranks(),
                                    .epoch_min = epoch_min,
                                    .rendezvous_address = rendezvous_,
                                    .group_key = "key of the test"},
                        .stream = &stream_,
                        .await = NcclAwait::kHost};
    options.library = LibraryFor(num_ranks());
    return FormNccl(options, timeout);
  }

  bool names_late_rank() const override { return false; }

  // A thread cannot die, but its NCCL can where it has transferred anything. Else it leaves.
  void Vanish(std::unique_ptr<Communicator> communicator) override {
    FakeNcclSwitches& switches = SwitchesOf(LibraryFor(num_ranks()));
    switches.failing_rank = rank();
    switches.failing_transfer = 0;
    (void)communicator->Synchronize(absl::Seconds(15));
  }

 private:
  const std::string rendezvous_;
  const FakeStream stream_;
};

}  // namespace

std::vector<std::string> RunRanks(int32_t num_ranks, const RankBody& body) {
  const ReservedPort port = ReservedPort::Reserve().value();
  SwitchesOf(LibraryFor(num_ranks)).failing_transfer = -1;
  std::vector<std::string> said(num_ranks);
  std::vector<std::thread> threads;
  threads.reserve(num_ranks);
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      FakeNcclSeat seat(rank, num_ranks, StrCat("127.0.0.1:", port.port()));
      said[rank] = body(seat);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return said;
}

}  // namespace facet::worker
