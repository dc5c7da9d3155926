// A request in the fair queue: what the dispatch thread needs to choose a worker and send it. The
// request itself lives in its relay shard.
#pragma once

#include <cstdint>
#include <string>

#include "facet/worker/v1/worker.pb.h"
#include "router/served_model.h"

namespace facet::router {

struct QueuedRequest {
  const ServedModel* model = nullptr;
  std::string tenant;
  worker::v1::Submit submit;      // With its id, epoch and committed tokens.
  int64_t queue_deadline_ns = 0;  // Then it ends without having started.
  bool new_tokens_asked = false;  // The client named new_tokens_max; else it may be made smaller.

  // What its prefill costs: committed tokens are computed again.
  int64_t prefill_tokens() const { return submit.prompt_ids_size() + submit.committed_ids_size(); }
};

}  // namespace facet::router
