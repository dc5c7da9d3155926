#include "worker/engine/sequence.h"

#include <utility>

namespace facet::worker {

Sequence::Sequence(SequenceRequest request, int64_t arrival)
    : arrival_ns(arrival), request_(std::move(request)) {
  for (const int32_t token : request_.prompt_ids) Append(token);
  for (const int32_t token : request_.committed_ids) Append(token);
  num_published = num_generated();
  if (!request_.committed_ids.empty()) num_replayed = num_tokens();
}

void Sequence::Append(int32_t token) {
  tokens_.push_back(token);
  history_hash_ = (history_hash_ ^ static_cast<uint32_t>(token)) * 0x100000001b3;
}

}  // namespace facet::worker
