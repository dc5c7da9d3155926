// The sampler's noise: a function of (seed, choice, position, vocabulary id) and nothing else, the
// same bits on every device. The generator is Philox 4x32-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011), used for its first output word.
#pragma once

#include <cstdint>

#include "kernels/approx.h"

namespace facet::kernels {

struct NoiseKey {
  uint64_t seed = 0;
  uint32_t choice = 0;
  uint64_t position = 0;
};

FACET_ALWAYS_INLINE uint32_t
Philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c0;
}

// Standard Gumbel noise, -ln(-ln u) with u in (0, 1) in steps of 2^-23 shifted by half a step.
FACET_ALWAYS_INLINE float GumbelNoise(const NoiseKey& key, int32_t id) {
  const uint32_t bits =
      Philox(static_cast<uint32_t>(id), key.choice, static_cast<uint32_t>(key.position),
             static_cast<uint32_t>(key.position >> 32), static_cast<uint32_t>(key.seed),
             static_cast<uint32_t>(key.seed >> 32));
  const float u = (static_cast<float>(bits >> 9) + 0.5F) * 1.1920928955078125e-7F;
  return -ApproxLog(-ApproxLog(u));
}

}  // namespace facet::kernels
