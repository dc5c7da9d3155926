#include "kernels/cuda/graph_cache.h"

#include <algorithm>

#include "base/check.h"

namespace facet::kernels {

GraphCache::~GraphCache() {
  while (!entries_.empty()) Forget(entries_.begin());
}

GraphCache::Entry* GraphCache::Use(const Key& key) {
  auto [it, is_new] = entries_.try_emplace(key);
  it->second.last_use = ++num_uses_;
  if (is_new) {
    if (entries_.size() > kKeysMax) Forget(Oldest(/*with_graph=*/false));
    return nullptr;
  }
  const auto num_graphs =
      static_cast<size_t>(std::count_if(entries_.begin(), entries_.end(), [](const auto& entry) {
        return entry.second.graph != nullptr;
      }));
  // The caller is about to make one more.
  if (it->second.graph == nullptr && num_graphs >= kGraphsMax) Forget(Oldest(/*with_graph=*/true));
  return &it->second;
}

GraphCache::Entries::iterator GraphCache::Oldest(bool with_graph) {
  auto oldest = entries_.end();
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (with_graph && it->second.graph == nullptr) continue;
    if (oldest == entries_.end() || it->second.last_use < oldest->second.last_use) oldest = it;
  }
  return oldest;
}

// A graph that still runs is freed when it has ended.
void GraphCache::Forget(Entries::iterator entry) {
  if (entry->second.graph != nullptr) {
    const cudaError_t error = cudaGraphExecDestroy(entry->second.graph);
    FACET_CHECK(error == cudaSuccess) << "graph:" << cudaGetErrorString(error);
  }
  entries_.erase(entry);
}

}  // namespace facet::kernels
