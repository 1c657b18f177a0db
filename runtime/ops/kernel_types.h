// What the kernel files of all instruction sets share: element tags and the constants of exp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bp::rt {

struct F32Weight { float v; };
struct F16Weight { uint16_t v; };

template <bool Half> struct KvElementOf { using Type = F32Weight; };
template <> struct KvElementOf<true> { using Type = F16Weight; };
template <bool Half> using KvElement = typename KvElementOf<Half>::Type;

inline constexpr float kExpLow = -87.0f, kExpHigh = 88.0f;
inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2High = 0.693359375f;          // 9 bits: n * kLn2High is exact
inline constexpr float kLn2Low = -2.12194440e-4f;
inline constexpr float kRoundMagic = 12582912.0f;        // 1.5 * 2^23: adding it rounds to an integer
inline constexpr float kExpPoly[8] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
/// Blocks whose largest magnitude is below this quantise to zero.
inline constexpr float kQuantTiny = 1e-30f;

/// Largest |Q| of 8-bit and 16-bit activations.
inline constexpr float kQuant8 = 127.0f, kQuant16 = 127.0f * 128.0f;

/// Nearest BF16, ties to even; a NaN stays one.
[[gnu::always_inline]] inline uint16_t nearest_bf16(float x) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  if ((u & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(u >> 16 | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

class Ops;
const Ops& portable_ops();
#if defined(__x86_64__)
const Ops& avx2_ops();
const Ops& avx512_ops();
const Ops& avx512_bf16_ops();
#endif

}  // namespace bp::rt
