// How a stand-in for a library puts work of its own into a stand-in for a stream: what a
// cudaStream_t of tests points to.
#pragma once

#include <functional>

namespace facet {

class TransferQueue {
 public:
  virtual ~TransferQueue() = default;

  // Goes behind what is in the stream. Is called again and again once everything before it has
  // run, and holds up what is behind it until it says that it has ended.
  virtual void EnqueueTransfer(std::function<bool()> has_ended) = 0;
};

}  // namespace facet
