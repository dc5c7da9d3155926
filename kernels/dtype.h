// Element types and the two conversions between them that everything rounds by.
#pragma once

#include <cstdint>
#include <cstring>

// Files compiled for one CPU tier include this header: a copy of these functions out of line, with
// that tier's instructions, must never be the one the linker keeps.
#ifdef __CUDACC__
#define FACET_ALWAYS_INLINE __host__ __device__ inline __attribute__((always_inline))
#else
#define FACET_ALWAYS_INLINE inline __attribute__((always_inline))
#endif

namespace facet::kernels {

enum class DType { kF32, kBf16, kI32 };

constexpr int64_t SizeOf(DType dtype) { return dtype == DType::kBf16 ? 2 : 4; }

constexpr const char* NameOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBf16:
      return "bf16";
    case DType::kI32:
      return "i32";
  }
  return "?";
}

// The upper half of a float's bits.
using Bf16 = uint16_t;

FACET_ALWAYS_INLINE float FloatOfBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

FACET_ALWAYS_INLINE uint32_t BitsOfFloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

FACET_ALWAYS_INLINE float ToFloat(Bf16 value) {
  return FloatOfBits(static_cast<uint32_t>(value) << 16);
}

FACET_ALWAYS_INLINE float ToFloat(float value) { return value; }

// Rounds to nearest, ties to even; a NaN stays one.
FACET_ALWAYS_INLINE Bf16 ToBf16(float value) {
  const uint32_t bits = BitsOfFloat(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  return static_cast<Bf16>(is_nan ? (bits >> 16) | 0x40 : rounded);
}

FACET_ALWAYS_INLINE float RoundToBf16(float value) { return ToFloat(ToBf16(value)); }

// value as the activations of a model of this dtype would hold it.
FACET_ALWAYS_INLINE float RoundTo(DType dtype, float value) {
  return dtype == DType::kBf16 ? RoundToBf16(value) : value;
}

}  // namespace facet::kernels
