// Expert parallelism among processes over TCP, by Debian's libgloo (0.5, its unbound buffers).
//
// Data runs over one gloo connection per pair of ranks, each on a port that the system picks at
// data_host: unencrypted, and known to the group alone but open while the group forms. Run it on a
// private network. Rendezvous, heartbeats and aborts run over the control connection
// (group_control.h), which is the only one that listens at a configured port and asks for the key.
//
// Known limit: gloo ends the process (an exception on its own thread) if a peer resets a connection
// in the moment in which it is accepted. Ranks therefore wait for each other once all are
// connected, and it takes a rank that dies, or an end of the group, while the group forms.
//
// Messages are tagged with verb, number and size of their transfer, so that ranks which disagree
// wait for each other up to a deadline and overwrite nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/status.h"
#include "worker/comm/communicator.h"
#include "worker/comm/group_control.h"

namespace facet::worker {

struct GlooOptions {
  GroupControl::Options control;
  std::string data_host;  // This rank's own address or name, as the others reach it.
};

// This rank's end of the group, once all ranks came; errors as GroupControl::Join, and UNAVAILABLE
// if ranks cannot connect to each other. Starts two threads. Names are looked up without a
// deadline.
StatusOr<std::unique_ptr<Communicator>> FormGloo(const GlooOptions& options,
                                                 absl::Duration timeout);

}  // namespace facet::worker
