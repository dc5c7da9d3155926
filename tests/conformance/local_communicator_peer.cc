// Ranks are threads; a rank that hangs is ended by the test's time limit.
#include <string>
#include <thread>
#include <vector>

#include "tests/conformance/communicator_peers.h"
#include "worker/comm/local_communicator.h"

namespace facet::worker {
namespace {

class ThreadSeat : public RankSeat {
 public:
  ThreadSeat(int32_t rank, int32_t num_ranks, LocalRendezvous& rendezvous)
      : RankSeat(rank, num_ranks), rendezvous_(rendezvous) {}

  StatusOr<std::unique_ptr<Communicator>> Form(int64_t epoch_min, absl::Duration timeout) override {
    return rendezvous_.Form(rank(), epoch_min, timeout);
  }

  void Vanish(std::unique_ptr<Communicator> communicator) override { communicator.reset(); }

 private:
  LocalRendezvous& rendezvous_;
};

}  // namespace

std::vector<std::string> RunRanks(int32_t num_ranks, const RankBody& body) {
  LocalRendezvous rendezvous(num_ranks);
  std::vector<std::string> said(num_ranks);
  std::vector<std::thread> threads;
  threads.reserve(num_ranks);
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadSeat seat(rank, num_ranks, rendezvous);
      said[rank] = body(seat);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return said;
}

}  // namespace facet::worker
