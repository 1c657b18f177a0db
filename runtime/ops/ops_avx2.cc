// Kernels for AVX2, FMA and F16C. Compiled with those flags; run only where cpuid has them.
#if defined(__x86_64__)
#include <immintrin.h>

#include "runtime/ops/kernel_types.h"
#include "runtime/ops/ops.h"

namespace bp::rt {
namespace {

constexpr const char* kOpsName = "avx2";
constexpr bool kWideTile = false;
constexpr int kKeyGroups = 2;

struct F {
  __m256 a, b;
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  void store(float* p) const { _mm256_storeu_ps(p, a); _mm256_storeu_ps(p + 8, b); }
  static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F first(F x, uint32_t n) {
    const __m256i limit = _mm256_set1_epi32(static_cast<int>(n));
    const __m256i lo = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), hi = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
    return {_mm256_and_ps(x.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, lo))),
            _mm256_and_ps(x.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, hi)))};
  }
  static F from_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static __m256 scale_half(__m256 p, __m256 t) {
    const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(_mm256_set1_ps(kRoundMagic)));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(n, 23)));
  }
  static F scale_by_power(F p, F t) { return {scale_half(p.a, t.a), scale_half(p.b, t.b)}; }
};

inline F load_weight(const F32Weight* p) { return F::load(&p->v); }
inline F load_weight(const F16Weight* p) { return F::from_f16(&p->v); }
inline void store_element(F x, F32Weight* p) { x.store(&p->v); }
inline void store_element(F x, F16Weight* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

struct Acc { __m256i a, b; };
using Bytes = Acc;
inline Bytes load_bytes(const std::byte* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline Bytes low_nibbles(Bytes x) {
  const __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
inline Bytes high_nibbles(Bytes x) {
  const __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(x.a, 4), m), _mm256_and_si256(_mm256_srli_epi16(x.b, 4), m)};
}
inline __m256i quad(const int8_t* x) {
  int32_t v;
  __builtin_memcpy(&v, x, 4);
  return _mm256_set1_epi32(v);
}
inline __m256i dot_unsigned(__m256i acc, __m256i w, __m256i x) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}
/// Signed weights as |w| * (sign(w) * x): pairs stay within 16 bits, as |x| <= 127.
inline __m256i dot_signed(__m256i acc, __m256i w, __m256i x) {
  w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
  return dot_unsigned(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
inline Acc q8_init(const int32_t*) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Acc q8_dot(Acc s, Bytes w, const int8_t* x) {
  const __m256i xb = quad(x);
  return {dot_signed(s.a, w.a, xb), dot_signed(s.b, w.b, xb)};
}
inline Acc zero_acc() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Acc q4_dot(Acc s, Bytes w, const int8_t* x) {
  const __m256i xb = quad(x);
  return {dot_unsigned(s.a, w.a, xb), dot_unsigned(s.b, w.b, xb)};
}
inline Acc join_halves(Acc high, Acc low) {
  return {_mm256_add_epi32(_mm256_slli_epi32(high.a, 7), low.a), _mm256_add_epi32(_mm256_slli_epi32(high.b, 7), low.b)};
}
inline F to_float(Acc s) { return {_mm256_cvtepi32_ps(s.a), _mm256_cvtepi32_ps(s.b)}; }

inline float quantise_block(const float* x, int8_t* q, int8_t* lo, int32_t* sum) {
  __m256i top = _mm256_setzero_si256();
  for (int i = 0; i < 32; i += 8)
    top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)),
                                                 _mm256_set1_epi32(0x7fffffff)));
  int32_t lanes[8], most = 0, total = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), top);
  for (int i = 0; i < 8; ++i) most = lanes[i] > most ? lanes[i] : most;
  const float largest = __builtin_bit_cast(float, most);
  const float range = lo ? kQuant16 : kQuant8;
  const bool usable = most < 0x7f800000 && largest >= kQuantTiny;
  const __m256 scale = _mm256_set1_ps(usable ? range / largest : 0.0f);
  for (int i = 0; i < 32; i += 8) {
    const __m256i rounded = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), scale));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), rounded);
    for (int j = 0; j < 8; ++j) {
      const int32_t v = usable ? lanes[j] : 0;
      const int32_t high = lo ? (v + 64) >> 7 : v;
      q[i + j] = static_cast<int8_t>(high);
      if (lo) lo[i + j] = static_cast<int8_t>(v - high * 128);
      total += v;
    }
  }
  *sum = total;
  if (usable) return largest / range;
  return most >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
}

inline uint64_t add_to_fixed(F x, int64_t* sums) {
  float a[16];
  x.store(a);
  uint64_t bad = 0;
  for (int i = 0; i < 16; ++i) {
    if (a[i] < kLeafMax && a[i] > -kLeafMax) sums[i] += _mm_cvtss_si64(_mm_set_ss(a[i] * kFixedOne));
    else ++bad;
  }
  return bad;
}

/// Pairs of BF16 weights of 16 rows, and the sum over a pair for each: the odd column first.
struct Pairs { __m256i a, b; };
inline Pairs load_pairs(const uint16_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16))};
}
inline F dot_pairs(F acc, Pairs w, const uint16_t* x) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000));
  const F odd{_mm256_castsi256_ps(_mm256_and_si256(w.a, upper)), _mm256_castsi256_ps(_mm256_and_si256(w.b, upper))};
  const F even{_mm256_castsi256_ps(_mm256_slli_epi32(w.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(w.b, 16))};
  const auto wide = [](uint16_t h) { return F::set1(__builtin_bit_cast(float, uint32_t(h) << 16)); };
  return F::fma(even, wide(x[0]), F::fma(odd, wide(x[1]), acc));
}

inline float root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

}  // namespace

#include "runtime/ops/kernels.inl"

const Ops& avx2_ops() {
  static const VectorOps ops;
  return ops;
}

}  // namespace bp::rt
#endif
