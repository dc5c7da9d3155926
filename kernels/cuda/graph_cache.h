// Recorded steps by their keys. A key that is new runs as it is called, which also makes the
// scratch memory it needs; the second time it is recorded, from then on played. What was used
// longest ago is forgotten first.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace facet::kernels {

class GraphCache {
 public:
  using Key = std::vector<int64_t>;

  static constexpr size_t kGraphsMax = 64;
  static constexpr size_t kKeysMax = 512;

  struct Entry {
    cudaGraphExec_t graph = nullptr;
    uint64_t last_use = 0;
  };

  GraphCache() = default;
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;
  ~GraphCache();

  // Null at the first call for this key. Else where its graph is, or belongs; valid until the next
  // call.
  Entry* Use(const Key& key);

 private:
  using Entries = std::map<Key, Entry>;

  // Of those that have a graph, or of all; end() if there is none.
  Entries::iterator Oldest(bool with_graph);
  void Forget(Entries::iterator entry);

  Entries entries_;
  uint64_t num_uses_ = 0;
};

}  // namespace facet::kernels
