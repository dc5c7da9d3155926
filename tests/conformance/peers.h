// The backends that one conformance program holds against the reference: the CPU tiers, or CUDA
// (on the emulator or on a device). Each program links one definition of Peers().
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace facet::kernels {

struct Peer {
  std::string name;
  std::function<std::unique_ptr<Backend>()> make;
  std::vector<DType> dtypes;
  bool reads_host_memory = true;
  int64_t width_unit = 2;  // Rows of activations are multiples of this many elements.
  uint32_t num_seeds = 12;
};

// Those that can run here.
std::vector<Peer> Peers();

}  // namespace facet::kernels
