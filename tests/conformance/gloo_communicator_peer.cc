#include <csignal>
#include <memory>
#include <string>

#include "tests/conformance/process_ranks.h"
#include "worker/comm/gloo_communicator.h"

namespace facet::worker {
namespace {

class GlooSeat : public RankSeat {
 public:
  GlooSeat(int32_t rank, int32_t num_ranks, std::string rendezvous)
      : RankSeat(rank, num_ranks), rendezvous_(std::move(rendezvous)) {}

  StatusOr<std::unique_ptr<Communicator>> Form(int64_t epoch_min, absl::Duration timeout) override {
    return FormGloo({.control = {.rank = rank(),
                                 .num_ranks = num_ranks(),
                                 .epoch_min = epoch_min,
                                 .rendezvous_address = rendezvous_,
                                 .group_key = "key of the test"},
                     .data_host = "127.0.0.1"},
                    timeout);
  }

  void Vanish(std::unique_ptr<Communicator> /*communicator*/) override { std::raise(SIGKILL); }

 private:
  const std::string rendezvous_;
};

}  // namespace

std::unique_ptr<RankSeat> TakeProcessSeat(int32_t rank,
                                          int32_t num_ranks,
                                          const std::string& rendezvous) {
  return std::make_unique<GlooSeat>(rank, num_ranks, rendezvous);
}

}  // namespace facet::worker
