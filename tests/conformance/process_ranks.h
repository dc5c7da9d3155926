// RunRanks with ranks that are processes: forked, on loopback, and killed by id if they do not end.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tests/conformance/communicator_peers.h"

namespace facet::worker {

// In the rank's own process: its seat. Each program has one definition beside its communicator.
std::unique_ptr<RankSeat> TakeProcessSeat(int32_t rank,
                                          int32_t num_ranks,
                                          const std::string& rendezvous);

}  // namespace facet::worker
