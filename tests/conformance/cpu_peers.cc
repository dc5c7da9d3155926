#include "kernels/cpu/cpu_backend.h"
#include "tests/conformance/peers.h"

namespace facet::kernels {

std::vector<Peer> Peers() {
  std::vector<Peer> peers;
  for (const CpuTier tier : {CpuTier::kScalar, CpuTier::kAvx2, CpuTier::kAvx512}) {
    if (!Supports(tier)) continue;
    peers.push_back({.name = NameOf(tier),
                     .make = [tier] { return std::make_unique<CpuBackend>(tier, 2); },
                     .dtypes = {DType::kF32, DType::kBf16}});
  }
  return peers;
}

}  // namespace facet::kernels
