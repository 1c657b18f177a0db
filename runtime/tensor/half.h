// Conversions of 16-bit floats, bit-exact and the same on every machine (IEEE 754, round to nearest even).
#pragma once
#include <cstdint>
#include <cstring>

namespace bp::rt {

inline uint32_t float_bits(float x) { uint32_t u; std::memcpy(&u, &x, 4); return u; }
inline float float_from_bits(uint32_t u) { float x; std::memcpy(&x, &u, 4); return x; }

inline float bf16_to_float(uint16_t h) { return float_from_bits(uint32_t(h) << 16); }

inline float f16_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16;
  const uint32_t magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) return float_from_bits(sign | 0x7f800000 | ((magnitude & 0x3ff) << 13));
  if (magnitude >= 0x0400) return float_from_bits(sign | ((magnitude << 13) + 0x38000000));
  // Subnormal: magnitude * 2^-24 is exact in FP32.
  return float_from_bits(sign | float_bits(static_cast<float>(magnitude) * 5.9604644775390625e-8f));
}

inline uint16_t float_to_f16(float x) {
  const uint32_t u = float_bits(x);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000);
  const uint32_t a = u & 0x7fffffff;
  if (a > 0x7f800000) return sign | 0x7e00 | static_cast<uint16_t>((a >> 13) & 0x3ff);
  if (a >= 0x477ff000) return sign | 0x7c00;              // rounds to infinity
  if (a < 0x38800000) {                                   // subnormal: let the FP32 adder round
    const float r = float_from_bits(a) + 0.5f;            // unit in the last place of 0.5 is 2^-24
    return sign | static_cast<uint16_t>(float_bits(r) - 0x3f000000);
  }
  return sign | static_cast<uint16_t>((a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13);
}

}  // namespace bp::rt
