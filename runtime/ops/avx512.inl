// Kernels for AVX-512 F, BW, DQ, VL and VNNI, and BF16 where the file is compiled for it: vdpbf16ps gives the
// same bits as two FMAs, numbers too small to be normal apart.
namespace {

constexpr bool kWideTile = true;
constexpr int kKeyGroups = 4;

struct F {
  __m512 v;
  static F load(const float* p) { return {_mm512_loadu_ps(p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  static F zero() { return {_mm512_setzero_ps()}; }
  static F set1(float x) { return {_mm512_set1_ps(x)}; }
  static F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
  static F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
  static F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
  static F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
  static F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
  static F first(F a, uint32_t n) { return {_mm512_maskz_mov_ps(static_cast<__mmask16>((1u << n) - 1), a.v)}; }
  static F from_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static F scale_by_power(F p, F t) {
    const __m512i n = _mm512_sub_epi32(_mm512_castps_si512(t.v), _mm512_castps_si512(_mm512_set1_ps(kRoundMagic)));
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p.v), _mm512_slli_epi32(n, 23)))};
  }
};

inline F load_weight(const F32Weight* p) { return F::load(&p->v); }
inline F load_weight(const F16Weight* p) { return F::from_f16(&p->v); }
inline void store_element(F x, F32Weight* p) { x.store(&p->v); }
inline void store_element(F x, F16Weight* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

using Acc = __m512i;
using Bytes = __m512i;
inline Bytes load_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }
inline Bytes low_nibbles(Bytes b) { return _mm512_and_si512(b, _mm512_set1_epi8(15)); }
inline Bytes high_nibbles(Bytes b) { return _mm512_and_si512(_mm512_srli_epi16(b, 4), _mm512_set1_epi8(15)); }
inline __m512i quad(const int8_t* x) {
  int32_t v;
  __builtin_memcpy(&v, x, 4);
  return _mm512_set1_epi32(v);
}
/// Weights are stored with 128 added, so that they are unsigned: that is taken off again here.
inline Acc q8_init(const int32_t* zero) { return _mm512_set1_epi32(*zero); }
inline Acc q8_dot(Acc a, Bytes w, const int8_t* x) { return _mm512_dpbusd_epi32(a, w, quad(x)); }
inline Acc zero_acc() { return _mm512_setzero_si512(); }
inline Acc q4_dot(Acc a, Bytes w, const int8_t* x) { return _mm512_dpbusd_epi32(a, w, quad(x)); }
inline Acc join_halves(Acc high, Acc low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 7), low); }
inline F to_float(Acc a) { return {_mm512_cvtepi32_ps(a)}; }

/// q = (Q + 64) >> 7, lo = Q - 128 * q
inline void split_halves(__m512i v, int8_t* q, int8_t* lo) {
  const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(64)), 7);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(high));
  const __m512i low = _mm512_sub_epi32(v, _mm512_slli_epi32(high, 7));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lo), _mm512_cvtepi32_epi8(low));
}

inline float quantise_block(const float* x, int8_t* q, int8_t* lo, int32_t* sum) {
  const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
  const __m512i clear = _mm512_set1_epi32(0x7fffffff);
  const int32_t top = _mm512_reduce_max_epi32(_mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), clear),
                                                               _mm512_and_si512(_mm512_castps_si512(b), clear)));
  const float largest = __builtin_bit_cast(float, top);
  if (top >= 0x7f800000 || largest < kQuantTiny) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_setzero_si256());
    if (lo) _mm256_storeu_si256(reinterpret_cast<__m256i*>(lo), _mm256_setzero_si256());
    *sum = 0;
    return top >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
  }
  const float most = lo ? kQuant16 : kQuant8;
  const __m512 scale = _mm512_set1_ps(most / largest);
  const __m512i qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, scale)), qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, scale));
  if (lo) {
    split_halves(qa, q, lo);
    split_halves(qb, q + 16, lo + 16);
  } else {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(qa));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16), _mm512_cvtepi32_epi8(qb));
  }
  *sum = _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
  return largest / most;
}

inline uint64_t add_to_fixed(F x, int64_t* sums) {
  const __mmask16 ok = _mm512_cmp_ps_mask(_mm512_abs_ps(x.v), _mm512_set1_ps(kLeafMax), _CMP_LT_OQ);
  const __m512 y = _mm512_mul_ps(x.v, _mm512_set1_ps(kFixedOne));
  const __m512i lo = _mm512_maskz_cvtps_epi64(static_cast<__mmask8>(ok), _mm512_castps512_ps256(y));
  const __m512i hi = _mm512_maskz_cvtps_epi64(static_cast<__mmask8>(ok >> 8), _mm512_extractf32x8_ps(y, 1));
  _mm512_storeu_si512(sums, _mm512_add_epi64(_mm512_loadu_si512(sums), lo));
  _mm512_storeu_si512(sums + 8, _mm512_add_epi64(_mm512_loadu_si512(sums + 8), hi));
  return ok == 0xffff ? 0 : static_cast<uint64_t>(16 - __builtin_popcount(ok));
}

/// Pairs of BF16 weights of 16 rows, and the sum over a pair for each: the odd column first.
using Pairs = __m512i;
inline Pairs load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
inline F dot_pairs(F acc, Pairs w, const uint16_t* x) {
  int32_t pair;
  __builtin_memcpy(&pair, x, 4);
#if defined(__AVX512BF16__)
  return {_mm512_dpbf16_ps(acc.v, (__m512bh)w, (__m512bh)_mm512_set1_epi32(pair))};
#else
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
  const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(w, upper));
  const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  const F odd_x = F::set1(__builtin_bit_cast(float, pair & static_cast<int32_t>(0xffff0000)));
  const F even_x = F::set1(__builtin_bit_cast(float, static_cast<int32_t>(static_cast<uint32_t>(pair) << 16)));
  return F::fma({even}, even_x, F::fma({odd}, odd_x, acc));
#endif
}

inline float root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

}  // namespace
