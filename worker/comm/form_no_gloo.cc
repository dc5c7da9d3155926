// Stands in for gloo_communicator.cc in programs that may need nothing but libc.
#include "worker/comm/gloo_communicator.h"

namespace facet::worker {

StatusOr<std::unique_ptr<Communicator>> FormGloo(const GlooOptions& options,
                                                 absl::Duration /*timeout*/) {
  return Unavailable("rank ", options.control.rank, ": this program was built without gloo");
}

}  // namespace facet::worker
