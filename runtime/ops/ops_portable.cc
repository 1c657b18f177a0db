// The vectorised kernels over plain arrays: runs anywhere, as fast as the compiler makes it.
#include <cmath>
#include <cstring>

#include "runtime/ops/kernel_types.h"
#include "runtime/ops/ops.h"
#include "runtime/tensor/half.h"

namespace bp::rt {
namespace {

constexpr const char* kOpsName = "portable";
constexpr bool kWideTile = false;
constexpr int kKeyGroups = 2;

struct F {
  float v[16];
  template <class Fn>
  static F map(Fn fn) {
    F out;
    for (int i = 0; i < 16; ++i) out.v[i] = fn(i);
    return out;
  }
  static F load(const float* p) { return map([&](int i) { return p[i]; }); }
  void store(float* p) const { std::memcpy(p, v, sizeof v); }
  static F zero() { return set1(0.0f); }
  static F set1(float x) { return map([&](int) { return x; }); }
  static F fma(const F& a, const F& b, const F& c) {
    return map([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
  }
  static F add(const F& a, const F& b) { return map([&](int i) { return a.v[i] + b.v[i]; }); }
  static F sub(const F& a, const F& b) { return map([&](int i) { return a.v[i] - b.v[i]; }); }
  static F mul(const F& a, const F& b) { return map([&](int i) { return a.v[i] * b.v[i]; }); }
  static F div(const F& a, const F& b) { return map([&](int i) { return a.v[i] / b.v[i]; }); }
  static F max(const F& a, const F& b) { return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
  static F min(const F& a, const F& b) { return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
  static F first(const F& a, uint32_t n) { return map([&](int i) { return uint32_t(i) < n ? a.v[i] : 0.0f; }); }
  static F from_f16(const uint16_t* p) { return map([&](int i) { return f16_to_float(p[i]); }); }
  static F scale_by_power(const F& p, const F& t) {
    return map([&](int i) {
      return float_from_bits(float_bits(p.v[i]) + ((float_bits(t.v[i]) - float_bits(kRoundMagic)) << 23));
    });
  }
};

inline F load_weight(const F32Weight* p) { return F::map([&](int i) { return p[i].v; }); }
inline F load_weight(const F16Weight* p) { return F::map([&](int i) { return f16_to_float(p[i].v); }); }
inline void store_element(const F& x, F32Weight* p) { for (int i = 0; i < 16; ++i) p[i].v = x.v[i]; }
inline void store_element(const F& x, F16Weight* p) { for (int i = 0; i < 16; ++i) p[i].v = float_to_f16(x.v[i]); }

struct Acc { int32_t v[16]; };
struct Bytes { uint8_t v[64]; };
inline Bytes load_bytes(const std::byte* p) {
  Bytes b;
  std::memcpy(b.v, p, 64);
  return b;
}
inline Bytes low_nibbles(Bytes b) {
  for (auto& x : b.v) x &= 15;
  return b;
}
inline Bytes high_nibbles(Bytes b) {
  for (auto& x : b.v) x >>= 4;
  return b;
}
inline Acc dot(Acc a, const Bytes& w, const int8_t* x, int offset) {
  for (int r = 0; r < 16; ++r)
    for (int k = 0; k < 4; ++k) a.v[r] += (int(w.v[r * 4 + k]) - offset) * int(x[k]);
  return a;
}
inline Acc q8_init(const int32_t*) { return {}; }
inline Acc q8_dot(const Acc& a, const Bytes& w, const int8_t* x) { return dot(a, w, x, 128); }
inline Acc zero_acc() { return {}; }
inline Acc q4_dot(const Acc& a, const Bytes& w, const int8_t* x) { return dot(a, w, x, 0); }
inline Acc join_halves(const Acc& high, Acc low) {
  for (int r = 0; r < 16; ++r) low.v[r] += high.v[r] * 128;
  return low;
}
inline F to_float(const Acc& a) { return F::map([&](int i) { return static_cast<float>(a.v[i]); }); }

inline float quantise_block(const float* x, int8_t* q, int8_t* lo, int32_t* sum) {
  uint32_t top = 0;
  for (int i = 0; i < 32; ++i) top = std::max(top, float_bits(x[i]) & 0x7fffffff);
  const float largest = float_from_bits(top);
  const bool usable = top < 0x7f800000 && largest >= kQuantTiny;
  const float range = lo ? kQuant16 : kQuant8;
  const float scale = usable ? range / largest : 0.0f;
  *sum = 0;
  for (int i = 0; i < 32; ++i) {
    const int v = usable ? static_cast<int>((x[i] * scale + kRoundMagic) - kRoundMagic) : 0;
    const int high = lo ? (v + 64) >> 7 : v;
    q[i] = static_cast<int8_t>(high);
    if (lo) lo[i] = static_cast<int8_t>(v - high * 128);
    *sum += v;
  }
  if (usable) return largest / range;
  return top >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
}

inline uint64_t add_to_fixed(const F& x, int64_t* sums) {
  uint64_t bad = 0;
  for (int i = 0; i < 16; ++i) {
    if (std::fabs(x.v[i]) < kLeafMax) sums[i] += std::llrint(x.v[i] * kFixedOne);
    else ++bad;
  }
  return bad;
}

/// Pairs of BF16 weights of 16 rows, and the sum over a pair for each: the odd column first.
struct Pairs { uint16_t v[32]; };
inline Pairs load_pairs(const uint16_t* p) {
  Pairs w;
  std::memcpy(w.v, p, sizeof w);
  return w;
}
inline F dot_pairs(const F& acc, const Pairs& w, const uint16_t* x) {
  return F::map([&](int i) {
    const float odd = std::fma(bf16_to_float(w.v[2 * i + 1]), bf16_to_float(x[1]), acc.v[i]);
    return std::fma(bf16_to_float(w.v[2 * i]), bf16_to_float(x[0]), odd);
  });
}

inline float root(float x) { return std::sqrt(x); }

}  // namespace

#include "runtime/ops/kernels.inl"

const Ops& portable_ops() {
  static const VectorOps ops;
  return ops;
}

}  // namespace bp::rt
