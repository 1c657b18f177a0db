// The vectorised kernels, written once over a 16-lane vector type. A file per instruction set defines, in
// an anonymous namespace, before it includes this one:
//   F  16 floats: load, store, zero, set1, fma(a, b, c) = a * b + c, add, sub, mul, div, from_f16,
//      max(a, b) = a > b ? a : b, min(a, b) = a < b ? a : b, first(v, n) = v with lanes from n on as 0,
//      scale_by_power(p, t) = p * 2^n for t = n + kRoundMagic
//   load_weight, store_element for F32Weight, F16Weight
//   Pairs, load_pairs, dot_pairs: 16 rows x 2 columns of BF16
//   Acc, Bytes and the dot products of 16 rows x 4 columns: q8_init(zero), zero_acc, q8_dot, q4_dot, to_float,
//      join_halves(high, low) = 128 * high + low
//   quantise_block, add_to_fixed, root, kOpsName, what fits the registers: kWideTile (tiles of 8 tokens),
//      kKeyGroups (groups of 16 keys scored at a time)
// Nothing from the standard library with linkage may be used here: this code is compiled per instruction set.
namespace {

// ---- sums and exp -------------------------------------------------------------------------------------

/// 16 partial sums of a vector's elements joined in the written order.
inline float join(F x) {
  float a[16];
  x.store(a);
  for (int w = 8; w > 0; w /= 2)
    for (int j = 0; j < w; ++j) a[j] += a[j + w];
  return a[0];
}

/// exp(x) for x in [-87, 88] (clamped): 2^n * p(r), Cody-Waite reduction, Taylor polynomial of degree 7.
inline F exp_f(F x) {
  x = F::min(F::set1(kExpHigh), F::max(F::set1(kExpLow), x));   // a NaN stays one
  const F t = F::fma(x, F::set1(kLog2E), F::set1(kRoundMagic));
  const F n = F::sub(t, F::set1(kRoundMagic));
  F r = F::fma(n, F::set1(-kLn2High), x);
  r = F::fma(n, F::set1(-kLn2Low), r);
  F p = F::set1(kExpPoly[0]);
  for (int i = 1; i < 8; ++i) p = F::fma(p, r, F::set1(kExpPoly[i]));
  return F::fma(x, F::zero(), F::scale_by_power(p, t));
}

/// The largest of n values; what it is among NaNs does not matter: their exp is NaN whatever it is.
inline float top_of(const float* x, size_t n) {
  F m = F::set1(x[0]);
  size_t i = 0;
  for (; i + 16 <= n; i += 16) m = F::max(m, F::load(x + i));
  float a[16];
  m.store(a);
  float top = a[0];
  for (int j = 1; j < 16; ++j) top = a[j] > top ? a[j] : top;
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// ---- matrices -----------------------------------------------------------------------------------------

/// One group of 16 rows over `cols` columns for TN tokens: acc[t] is the sum over the leaf.
template <class T, int TN>
inline void float_tile(const std::byte* g, uint32_t cols, const float* x, size_t ld, F* acc) {
  for (int t = 0; t < TN; ++t) acc[t] = F::zero();
  const T* w = reinterpret_cast<const T*>(g);
  for (uint32_t c = 0; c < cols; ++c) {
    const F wc = load_weight(w + size_t(c) * 16);
#pragma GCC unroll 8
    for (int t = 0; t < TN; ++t) acc[t] = F::fma(wc, F::set1(x[t * ld + c]), acc[t]);
  }
}

/// x: [cols / 2][W][2] BF16.
template <int TN, int W>
inline void bf16_tile(const std::byte* g, uint32_t cols, const uint16_t* x, size_t ahead, F* acc) {
  F sums[2][TN];
#pragma GCC unroll 8
  for (int t = 0; t < TN; ++t) sums[0][t] = sums[1][t] = F::zero();
  const uint32_t pairs = cols / 2;
  uint32_t p = 0;
  const auto add = [&](F* to) {
    const Pairs w = load_pairs(reinterpret_cast<const uint16_t*>(g));
    __builtin_prefetch(g + ahead);
#pragma GCC unroll 8
    for (int t = 0; t < TN; ++t) to[t] = dot_pairs(to[t], w, x + t * 2);
    g += 64;
    x += W * 2;
  };
  for (; p + 2 <= pairs; p += 2) {
    add(sums[0]);
    add(sums[1]);
  }
  if (p < pairs) add(sums[0]);
#pragma GCC unroll 8
  for (int t = 0; t < TN; ++t) acc[t] = F::add(sums[0][t], sums[1][t]);
}

/// Quantised activations of a panel from one leaf's first column on.
struct Panel {
  const int8_t* q;
  const int8_t* lo;
  const float* d;
  const float* s;
  const int32_t* zero;
};

// The tiles below take TN tokens of a panel of W. They ask for memory `ahead` bytes further on.

template <int TN, int W, bool Wide>
inline void q8_tile(const std::byte* g, uint32_t blocks, Panel x, size_t ahead, F* acc) {
#pragma GCC unroll 8
  for (int t = 0; t < TN; ++t) acc[t] = F::zero();
  for (uint32_t b = 0; b < blocks; ++b) {
    const std::byte* block = g + q8_block_at(b);
    for (int line = 0; line < 8; ++line) __builtin_prefetch(block + ahead + line * 64);
    if (b & 1) __builtin_prefetch(block + ahead + 512);
    Acc sum[TN], high[TN];
#pragma GCC unroll 8
    for (int t = 0; t < TN; ++t) {
      sum[t] = q8_init(x.zero + t);
      if constexpr (Wide) high[t] = zero_acc();
    }
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const Bytes w = load_bytes(block + j * 64);
#pragma GCC unroll 8
      for (int t = 0; t < TN; ++t) {
        const int at = (j * W + t) * 4;
        if constexpr (Wide) high[t] = q8_dot(high[t], w, x.q + at);
        sum[t] = q8_dot(sum[t], w, (Wide ? x.lo : x.q) + at);
      }
    }
    const F d = F::from_f16(reinterpret_cast<const uint16_t*>(g + q8_scale_at(b, blocks)));
#pragma GCC unroll 8
    for (int t = 0; t < TN; ++t) {
      if constexpr (Wide) sum[t] = join_halves(high[t], sum[t]);
      acc[t] = F::fma(to_float(sum[t]), F::mul(d, F::set1(x.d[t])), acc[t]);
    }
    x = {x.q + 32 * W, Wide ? x.lo + 32 * W : nullptr, x.d + W, nullptr, x.zero + W};
  }
}

template <int TN, int W, bool Wide>
inline void q4_tile(const std::byte* g, uint32_t blocks, Panel x, size_t ahead, F* acc) {
#pragma GCC unroll 8
  for (int t = 0; t < TN; ++t) acc[t] = F::zero();
  for (uint32_t b = 0; b < blocks; ++b, g += 320) {
    for (int line = 0; line < 5; ++line) __builtin_prefetch(g + ahead + line * 64);
    Acc sum[TN], high[TN];
#pragma GCC unroll 8
    for (int t = 0; t < TN; ++t) {
      sum[t] = zero_acc();
      if constexpr (Wide) high[t] = zero_acc();
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Bytes both = load_bytes(g + j * 64);
      const Bytes lo = low_nibbles(both), hi = high_nibbles(both);
#pragma GCC unroll 8
      for (int t = 0; t < TN; ++t) {
        const int at = (j * W + t) * 4, far = at + 16 * W;
        const int8_t* low = Wide ? x.lo : x.q;
        sum[t] = q4_dot(q4_dot(sum[t], lo, low + at), hi, low + far);
        if constexpr (Wide) high[t] = q4_dot(q4_dot(high[t], lo, x.q + at), hi, x.q + far);
      }
    }
    const uint16_t* dm = reinterpret_cast<const uint16_t*>(g + kQ4ScaleAt);
    const F d = F::from_f16(dm), m = F::from_f16(dm + 16);
#pragma GCC unroll 8
    for (int t = 0; t < TN; ++t) {
      if constexpr (Wide) sum[t] = join_halves(high[t], sum[t]);
      acc[t] = F::fma(to_float(sum[t]), F::mul(d, F::set1(x.d[t])), acc[t]);
      acc[t] = F::fma(m, F::set1(x.s[t]), acc[t]);
    }
    x = {x.q + 32 * W, Wide ? x.lo + 32 * W : nullptr, x.d + W, x.s + W, nullptr};
  }
}

/// Sums of one leaf of one group for TN tokens from t0 + sub on, in the panel of W that begins at t0; `col` is
/// the leaf's first column.
template <int TN, int W>
inline void tile(PackType type, const std::byte* g, uint32_t col, uint32_t cols, const Activations& x,
                 uint32_t t0, uint32_t sub, size_t ahead, F* acc) {
  if (type == PackType::kQ8 || type == PackType::kQ4) {
    const size_t b = size_t(t0) * (x.cols / 32) + size_t(col / 32) * W + sub;
    const size_t at = size_t(t0) * x.cols + size_t(col) * W + sub * 4;
    const Panel p{x.q + at, x.lo ? x.lo + at : nullptr, x.d + b, x.s + b, x.zero + b};
    if (type == PackType::kQ8)
      return x.lo ? q8_tile<TN, W, true>(g, cols / 32, p, ahead, acc) : q8_tile<TN, W, false>(g, cols / 32, p, ahead, acc);
    return x.lo ? q4_tile<TN, W, true>(g, cols / 32, p, ahead, acc) : q4_tile<TN, W, false>(g, cols / 32, p, ahead, acc);
  }
  if (type == PackType::kBF16)
    return bf16_tile<TN, W>(g, cols, x.h + size_t(t0) * x.cols + size_t(col) * W + sub * 2, ahead, acc);
  const float* f = x.f + (t0 + sub) * x.ld + col;
  if (type == PackType::kF32) float_tile<F32Weight, TN>(g, cols, f, x.ld, acc);
  else float_tile<F16Weight, TN>(g, cols, f, x.ld, acc);
}

/// Calls part.operator()<TN, W>(t0, sub) for all tokens, in tiles that fit the registers.
template <class Part>
inline void for_panels(uint32_t tokens, Part part) {
  uint32_t t = 0;
  for (; t + 8 <= tokens; t += 8) {
    if constexpr (kWideTile) {
      part.template operator()<8, 8>(t, 0);
    } else {
      part.template operator()<4, 8>(t, 0);
      part.template operator()<4, 8>(t, 4);
    }
  }
  if (tokens - t >= 4) { part.template operator()<4, 4>(t, 0); t += 4; }
  if (tokens - t >= 2) { part.template operator()<2, 2>(t, 0); t += 2; }
  if (tokens - t >= 1) part.template operator()<1, 1>(t, 0);
}

/// How far ahead of its use memory is asked for: what it sends in the time that it takes to answer.
constexpr size_t kAheadBytes = 3072;

inline void store_rows(F v, float* out, uint32_t rows) {
  if (rows == 16) return v.store(out);
  float a[16];
  v.store(a);
  for (uint32_t r = 0; r < rows; ++r) out[r] = a[r];
}

inline uint32_t rows_of(const PackedMatrix& w, uint32_t g) {
  return w.rows - g * 16 < 16 ? w.rows - g * 16 : 16;
}

inline void matmul_group(const PackedMatrix& w, const Activations& x, float* out, size_t ld, uint32_t g) {
  const std::byte* at = w.group(0, g);
  const uint32_t rows = rows_of(w, g);
  for_panels(x.tokens, [&]<int TN, int W>(uint32_t t0, uint32_t sub) {
    F acc[TN];
    tile<TN, W>(w.type, at, 0, w.cols, x, t0, sub, t0 == 0 ? kAheadBytes : 0, acc);
    for (int t = 0; t < TN; ++t) store_rows(acc[t], out + (t0 + sub + t) * ld + g * 16, rows);
  });
}

/// Adds the sums of one leaf of one group to `out` (rows of this group). `ahead`: bytes to what is read later.
template <int TN, int W>
inline uint64_t add_leaf(const PackedMatrix& w, const Activations& x, uint32_t leaf, uint32_t g, uint32_t t0,
                         uint32_t sub, size_t ahead, int64_t* out, size_t ld) {
  F acc[TN];
  tile<TN, W>(w.type, w.group(leaf, g), leaf * w.leaf_cols, w.leaf_width(leaf), x, t0, sub, ahead, acc);
  const uint32_t rows = rows_of(w, g);
  uint64_t bad = 0;
  for (int t = 0; t < TN; ++t) {
    int64_t* to = out + (t0 + sub + t) * ld + g * 16;
    if (rows == 16) {
      bad += add_to_fixed(acc[t], to);
      continue;
    }
    int64_t part[16] = {};
    bad += add_to_fixed(acc[t], part);
    for (uint32_t r = 0; r < rows; ++r) to[r] += part[r];
  }
  return bad;
}

// ---- attention ----------------------------------------------------------------------------------------

inline const std::byte* kv_block(const KvView& kv, uint32_t position) {
  return kv.base + size_t(kv.blocks[position / kv.block_tokens]) * kv.block_bytes;
}

/// scores[r][k + 16 g ..] = q[r] . K * scale for G groups of 16 keys; q is [head_dim][R]. Asks for the keys
/// of the G groups from `next` on, and for the values of this one.
template <int R, int G, bool Half>
inline void score_groups(const KvView& kv, const float* q, uint32_t k, uint32_t next, float scale, size_t ld,
                         float* scores) {
  using T = KvElement<Half>;
  const T* keys[G];
  const std::byte* later[G];
  const std::byte* values[G];
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) {
    const uint32_t at = k + 16 * g, slot = at % kv.block_tokens, then = next + 16 * g;
    keys[g] = reinterpret_cast<const T*>(kv_block(kv, at)) + size_t(slot) * kv.head_dim;
    values[g] = kv_block(kv, at) + (size_t(kv.block_tokens) + slot) * kv.head_dim * sizeof(T);
    later[g] = kv_block(kv, then) + size_t(then % kv.block_tokens) * kv.head_dim * sizeof(T);
  }
  F acc[G][R];
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[g][r] = F::zero();
  constexpr uint32_t kStep = 64 / (16 * sizeof(T));      // values of d in a cache line
  for (uint32_t d = 0; d < kv.head_dim; d += kStep) {
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      __builtin_prefetch(later[g] + d * 16 * sizeof(T));
      __builtin_prefetch(values[g] + d * 16 * sizeof(T));
    }
#pragma GCC unroll 2
    for (uint32_t i = d; i < d + kStep; ++i) {
      F kd[G];
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) kd[g] = load_weight(keys[g] + size_t(i) * 16);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const F qd = F::set1(q[i * R + r]);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) acc[g][r] = F::fma(kd[g], qd, acc[g][r]);
      }
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g)
    for (int r = 0; r < R; ++r) F::mul(acc[g][r], F::set1(scale)).store(scores + r * ld + k + 16 * g);
}

/// scores[r][k] for all keys of the groups that hold positions 0 .. last.
template <int R, bool Half>
inline void score_keys(const KvView& kv, const float* q, uint32_t last, float scale, size_t ld, float* scores) {
  constexpr int G = R <= 4 ? kKeyGroups : kKeyGroups / 2;
  uint32_t k = 0;
  if constexpr (G > 1)
    for (; k + 16 * (G - 1) <= last; k += 16 * G)
      score_groups<R, G, Half>(kv, q, k, k + 32 * G - 16 <= last ? k + 16 * G : k, scale, ld, scores);
  for (; k <= last; k += 16) score_groups<R, 1, Half>(kv, q, k, k + 16 <= last ? k + 16 : k, scale, ld, scores);
}

/// scores[0 .. n) -> exp(score - largest), 0 beyond position `last`; returns their sum.
inline float softmax_row(float* scores, uint32_t n, uint32_t last) {
  const float top = top_of(scores, size_t(last) + 1);
  F sum = F::zero();
  for (uint32_t k = 0; k < n; k += 16) {
    F e = exp_f(F::sub(F::load(scores + k), F::set1(top)));
    if (k + 15 > last) e = F::first(e, last < k ? 0 : last + 1 - k);
    e.store(scores + k);
    sum = F::add(sum, e);
  }
  return join(sum);
}

template <int R, int C, bool Half>
inline void mix_values(const KvView& kv, uint32_t last, size_t ld, const float* p, const float* sums, uint32_t d0,
                       float* const* out) {
  using T = KvElement<Half>;
  F acc[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c] = F::zero();
  const size_t v_at = size_t(kv.block_tokens) * kv.head_dim;
  for (uint32_t k0 = 0; k0 <= last; k0 += kv.block_tokens) {
    const T* v = reinterpret_cast<const T*>(kv.base + size_t(kv.blocks[k0 / kv.block_tokens]) * kv.block_bytes) +
                 v_at + d0;
    const uint32_t n = last - k0 + 1 < kv.block_tokens ? last - k0 + 1 : kv.block_tokens;
    for (uint32_t k = 0; k < n; ++k, v += kv.head_dim)
      for (int c = 0; c < C; ++c) {
        const F vc = load_weight(v + c * 16);
        for (int r = 0; r < R; ++r) acc[r][c] = F::fma(vc, F::set1(p[r * ld + k0 + k]), acc[r][c]);
      }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) F::div(acc[r][c], F::set1(sums[r])).store(out[r] + d0 + c * 16);
}

/// Output columns [d, d + 16 C) of all rows, four at a time.
template <int R, int C, bool Half>
inline void mix_columns(const KvView& kv, uint32_t last, size_t ld, const float* p, const float* sums, uint32_t d,
                        float* const* out) {
  if constexpr (R > 4) {
    mix_values<4, C, Half>(kv, last, ld, p, sums, d, out);
    mix_values<R - 4, C, Half>(kv, last, ld, p + 4 * ld, sums + 4, d, out + 4);
  } else {
    mix_values<R, C, Half>(kv, last, ld, p, sums, d, out);
  }
}

template <int R, bool Half>
inline void attend_rows(const KvView& kv, const float* const* q, const uint32_t* last, float scale,
                        float* const* out, float* scratch) {
  uint32_t top = 0;
  for (int r = 0; r < R; ++r) top = last[r] > top ? last[r] : top;
  const uint32_t n = (top + 16) & ~15u;
  float* turned = scratch + size_t(R) * n;             // [head_dim][R]: one address for all rows
  for (int r = 0; r < R; ++r)
    for (uint32_t d = 0; d < kv.head_dim; ++d) turned[d * R + r] = q[r][d];
  score_keys<R, Half>(kv, turned, top, scale, n, scratch);
  float sums[R];
  for (int r = 0; r < R; ++r) sums[r] = softmax_row(scratch + size_t(r) * n, n, last[r]);
  uint32_t d = 0;
  for (; d + 64 <= kv.head_dim; d += 64) mix_columns<R, 4, Half>(kv, top, n, scratch, sums, d, out);
  for (; d < kv.head_dim; d += 16) mix_columns<R, 1, Half>(kv, top, n, scratch, sums, d, out);
}

template <bool Half>
inline void store_kv_as(std::byte* block, uint32_t slot, uint32_t block_tokens, uint32_t head_dim, const float* k,
                        const float* v) {
  using T = KvElement<Half>;
  T* keys = reinterpret_cast<T*>(block) + size_t(slot / 16) * 16 * head_dim + slot % 16;
  T* values = reinterpret_cast<T*>(block) + size_t(block_tokens) * head_dim + size_t(slot) * head_dim;
  for (uint32_t d = 0; d < head_dim; d += 16) {
    T kept[16];
    store_element(F::load(k + d), kept);
    for (int i = 0; i < 16; ++i) keys[size_t(d + i) * 16] = kept[i];
    store_element(F::load(v + d), values + d);
  }
}

// ---- the implementation -------------------------------------------------------------------------------

class VectorOps final : public Ops {
 public:
  const char* name() const override { return kOpsName; }

  void quantise(const Activations& x, uint32_t begin, uint32_t end) const override {
    const uint32_t blocks = x.q ? x.cols / 32 : 0, pairs = x.h ? x.cols / 2 : 0;
    for (uint32_t t = begin; t < end; ++t) {
      const uint32_t first = panel_begin(t, x.tokens), width = panel_width(first, x.tokens);
      uint16_t* h = x.h ? x.h + size_t(first) * x.cols + (t - first) * 2 : nullptr;
      for (uint32_t p = 0; p < pairs; ++p, h += 2 * width) {
        h[0] = nearest_bf16(x.f[t * x.ld + 2 * p]);
        h[1] = nearest_bf16(x.f[t * x.ld + 2 * p + 1]);
      }
      for (uint32_t b = 0; b < blocks; ++b) {
        int8_t q[32], lo[32];
        int32_t sum = 0;
        const float d = quantise_block(x.f + t * x.ld + b * 32, q, x.lo ? lo : nullptr, &sum);
        const size_t at = size_t(first) * x.cols + size_t(b) * 32 * width + (t - first) * 4;
        for (uint32_t j = 0; j < 8; ++j) {
          __builtin_memcpy(x.q + at + size_t(j) * width * 4, q + j * 4, 4);
          if (x.lo) __builtin_memcpy(x.lo + at + size_t(j) * width * 4, lo + j * 4, 4);
        }
        const size_t i = size_t(first) * blocks + size_t(b) * width + (t - first);
        x.d[i] = d;
        x.s[i] = d * static_cast<float>(sum);
        x.zero[i] = -128 * sum;
      }
    }
  }

  void matmul(const PackedMatrix& w, const Activations& x, float* out, size_t ld, uint32_t g0,
              uint32_t g1) const override {
    for (uint32_t g = g0; g < g1; ++g) matmul_group(w, x, out, ld, g);
  }

  uint64_t matmul_leaves(const PackedMatrix& w, const Activations& x, int64_t* out, size_t ld, uint32_t g0,
                         uint32_t g1) const override {
    const uint32_t end = g1 * 16 < w.rows ? g1 * 16 : w.rows;
    for (uint32_t t = 0; t < x.tokens; ++t)
      for (uint32_t r = g0 * 16; r < end; ++r) out[t * ld + r] = 0;
    const uint32_t n = g1 - g0, tiles = w.leaves() * n;
    const auto later = static_cast<uint32_t>(kAheadBytes / group_bytes(w.type, w.leaf_cols)) + 1;
    uint64_t bad = 0;
    // Leaf after leaf: the groups of a leaf lie one after another.
    for_panels(x.tokens, [&]<int TN, int W>(uint32_t t0, uint32_t sub) {
      for (uint32_t leaf = 0, i = 0; leaf < w.leaves(); ++leaf)
        for (uint32_t g = g0; g < g1; ++g, ++i) {
          const uint32_t next = i + later < tiles ? i + later : tiles - 1;
          const auto ahead = t0 == 0 ? w.group(next / n, g0 + next % n) - w.group(leaf, g) : 0;
          bad += add_leaf<TN, W>(w, x, leaf, g, t0, sub, static_cast<size_t>(ahead), out, ld);
        }
    });
    return bad;
  }

  void add_fixed(float* x, const int64_t* fixed, size_t n) const override {
    for (size_t i = 0; i < n; ++i) x[i] = x[i] + static_cast<float>(fixed[i]) * (1.0f / kFixedOne);
  }

  void rms_norm(const float* x, const float* weight, float eps, uint32_t n, float* out) const override {
    F sum = F::zero();
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) sum = F::fma(F::load(x + i), F::load(x + i), sum);
    if (i < n) {
      float tail[16] = {};
      for (uint32_t j = i; j < n; ++j) tail[j - i] = x[j];
      sum = F::fma(F::load(tail), F::load(tail), sum);
    }
    const float scale = 1.0f / root(join(sum) / static_cast<float>(n) + eps);
    for (i = 0; i + 16 <= n; i += 16)
      F::mul(F::mul(F::load(x + i), F::set1(scale)), F::load(weight + i)).store(out + i);
    for (; i < n; ++i) out[i] = x[i] * scale * weight[i];
  }

  void rope(float* x, uint32_t heads, uint32_t head_dim, const float* cos, const float* sin) const override {
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < heads; ++h, x += head_dim)
      for (uint32_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
      }
  }

  void silu_mul(float* gate, const float* up, size_t n) const override {
    for (size_t i = 0; i < n; i += 16) {
      const size_t m = n - i < 16 ? n - i : 16;
      float tail_gate[16] = {}, tail_up[16] = {};
      float* g = gate + i;
      const float* u = up + i;
      if (m < 16) {
        for (size_t j = 0; j < m; ++j) { tail_gate[j] = g[j]; tail_up[j] = u[j]; }
        g = tail_gate;
        u = tail_up;
      }
      const F x = F::load(g);
      const F e = exp_f(F::sub(F::zero(), x));
      F::mul(F::div(x, F::add(F::set1(1.0f), e)), F::load(u)).store(g);
      if (m < 16) for (size_t j = 0; j < m; ++j) gate[i + j] = g[j];
    }
  }

  void store_kv(std::byte* block, uint32_t slot, uint32_t block_tokens, uint32_t head_dim, bool f16,
                const float* k, const float* v) const override {
    if (f16) store_kv_as<true>(block, slot, block_tokens, head_dim, k, v);
    else store_kv_as<false>(block, slot, block_tokens, head_dim, k, v);
  }

  void attend(const KvView& kv, uint32_t rows, const float* const* q, const uint32_t* last, float scale,
              float* const* out, float* scratch) const override {
    if (kv.f16) attend_as<true>(kv, rows, q, last, scale, out, scratch);
    else attend_as<false>(kv, rows, q, last, scale, out, scratch);
  }

  size_t largest_index(const float* x, size_t n) const override {
    // Bits without the sign compare as magnitudes: infinities and NaNs are the largest.
    uint32_t worst = 0;
    for (size_t i = 0; i < n; ++i) {
      const uint32_t bits = __builtin_bit_cast(uint32_t, x[i]) & 0x7fffffff;
      worst = bits > worst ? bits : worst;
    }
    if (worst >= 0x7f800000) return n;
    const float top = top_of(x, n);
    for (size_t i = 0;; i += 64) {
      const size_t end = i + 64 < n ? i + 64 : n;
      bool here = false;
      for (size_t j = i; j < end; ++j) here |= x[j] == top;
      if (!here) continue;
      for (size_t j = i; j < end; ++j)
        if (x[j] == top) return j;
    }
  }

  void max_and_exp_sum(const float* x, size_t n, float* largest, float* sum) const override {
    uint32_t worst = 0;
    for (size_t i = 0; i < n; ++i) {
      const uint32_t bits = __builtin_bit_cast(uint32_t, x[i]) & 0x7fffffff;
      worst = bits > worst ? bits : worst;
    }
    const float top = top_of(x, n);
    if (worst >= 0x7f800000) {
      *largest = *sum = __builtin_nanf("");
      return;
    }
    F total = F::zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) total = F::add(total, exp_f(F::sub(F::load(x + i), F::set1(top))));
    if (i < n) {
      float tail[16] = {};
      for (size_t j = i; j < n; ++j) tail[j - i] = x[j];
      total = F::add(total, F::first(exp_f(F::sub(F::load(tail), F::set1(top))), static_cast<uint32_t>(n - i)));
    }
    *largest = top;
    *sum = join(total);
  }

 private:
  template <bool Half>
  static void attend_as(const KvView& kv, uint32_t rows, const float* const* q, const uint32_t* last, float scale,
                        float* const* out, float* scratch) {
    switch (rows) {
      case 1: return attend_rows<1, Half>(kv, q, last, scale, out, scratch);
      case 2: return attend_rows<2, Half>(kv, q, last, scale, out, scratch);
      case 3: return attend_rows<3, Half>(kv, q, last, scale, out, scratch);
      case 4: return attend_rows<4, Half>(kv, q, last, scale, out, scratch);
      case 5: return attend_rows<5, Half>(kv, q, last, scale, out, scratch);
      case 6: return attend_rows<6, Half>(kv, q, last, scale, out, scratch);
      case 7: return attend_rows<7, Half>(kv, q, last, scale, out, scratch);
      default: return attend_rows<8, Half>(kv, q, last, scale, out, scratch);
    }
  }
};

}  // namespace
