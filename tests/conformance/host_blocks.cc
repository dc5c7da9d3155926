// Blocks in the host's own memory.
#include <cstdlib>

#include "base/check.h"
#include "tests/conformance/communicator_peers.h"

namespace facet::worker {

void* AllocateBlocks(size_t bytes) {
  void* blocks = std::malloc(bytes);
  FACET_CHECK(blocks != nullptr) << bytes;
  return blocks;
}

void FreeBlocks(void* blocks) { std::free(blocks); }

}  // namespace facet::worker
