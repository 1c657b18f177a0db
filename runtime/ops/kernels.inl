// The vectorised kernels, written once over a 16-lane vector type. A file per instruction set defines, in
// an anonymous namespace, before it includes this one:
//   F  16 floats: load, store, zero, set1, fma(a, b, c) = a * b + c, add, sub, mul, div, from_f16,
//      max(a, b) = a > b ? a : b, min(a, b) = a < b ? a : b, first(v, n) = v with lanes from n on as 0,
//      scale_by_power(p, t) = p * 2^n for t = n + kRoundMagic
//   load_weight, store_element for F32Weight, F16Weight, BF16Weight
//   Acc, Bytes and the dot products of 16 rows x 4 columns: q8_init, q8_dot, q4_init, q4_dot, to_float,
//      join_halves(high, low) = 128 * high + low
//   quantise_block, add_to_fixed, root, kWideTile (tiles of 8 tokens fit the registers), kOpsName
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
inline void float_tile(const std::byte* g, uint32_t cols, const float* const* x, F* acc) {
  for (int t = 0; t < TN; ++t) acc[t] = F::zero();
  const T* w = reinterpret_cast<const T*>(g);
  for (uint32_t c = 0; c < cols; ++c) {
    const F wc = load_weight(w + size_t(c) * 16);
    for (int t = 0; t < TN; ++t) acc[t] = F::fma(wc, F::set1(x[t][c]), acc[t]);
  }
}

struct QuantRow {
  const int8_t* q;
  const int8_t* lo;   // null for 8-bit activations
  const float* d;
  const float* s;
  const int32_t* isum;
};

template <int TN, bool Wide>
inline void q8_tile(const std::byte* g, uint32_t cols, const QuantRow* x, F* acc) {
  const uint32_t blocks = cols / 32;
  const std::byte* scales = g + size_t(blocks) * 512;
  for (int t = 0; t < TN; ++t) acc[t] = F::zero();
  for (uint32_t b = 0; b < blocks; ++b) {
    Acc sum[TN], high[TN];
    for (int t = 0; t < TN; ++t) sum[t] = q8_init(x[t].isum[b]);
    if constexpr (Wide) for (int t = 0; t < TN; ++t) high[t] = q4_init();
    for (int j = 0; j < 8; ++j) {
      const Bytes w = load_bytes(g + size_t(b) * 512 + j * 64);
      for (int t = 0; t < TN; ++t) {
        if constexpr (Wide) high[t] = q8_dot(high[t], w, x[t].q + b * 32 + j * 4);
        sum[t] = q8_dot(sum[t], w, (Wide ? x[t].lo : x[t].q) + b * 32 + j * 4);
      }
    }
    if constexpr (Wide) for (int t = 0; t < TN; ++t) sum[t] = join_halves(high[t], sum[t]);
    const F d = F::from_f16(reinterpret_cast<const uint16_t*>(scales) + b * 16);
    for (int t = 0; t < TN; ++t)
      acc[t] = F::fma(to_float(sum[t]), F::mul(d, F::set1(x[t].d[b])), acc[t]);
  }
}

template <int TN, bool Wide>
inline void q4_tile(const std::byte* g, uint32_t cols, const QuantRow* x, F* acc) {
  const uint32_t blocks = cols / 32;
  const std::byte* scales = g + size_t(blocks) * 256;
  for (int t = 0; t < TN; ++t) acc[t] = F::zero();
  for (uint32_t b = 0; b < blocks; ++b) {
    Acc sum[TN], high[TN];
    for (int t = 0; t < TN; ++t) sum[t] = q4_init();
    if constexpr (Wide) for (int t = 0; t < TN; ++t) high[t] = q4_init();
    for (int j = 0; j < 4; ++j) {
      const Bytes both = load_bytes(g + size_t(b) * 256 + j * 64);
      const Bytes lo = low_nibbles(both), hi = high_nibbles(both);
      for (int t = 0; t < TN; ++t) {
        const int8_t* low = (Wide ? x[t].lo : x[t].q) + b * 32 + j * 4;
        sum[t] = q4_dot(q4_dot(sum[t], lo, low), hi, low + 16);
        if constexpr (Wide) {
          const int8_t* q = x[t].q + b * 32 + j * 4;
          high[t] = q4_dot(q4_dot(high[t], lo, q), hi, q + 16);
        }
      }
    }
    if constexpr (Wide) for (int t = 0; t < TN; ++t) sum[t] = join_halves(high[t], sum[t]);
    const uint16_t* dm = reinterpret_cast<const uint16_t*>(scales) + b * 32;
    const F d = F::from_f16(dm), m = F::from_f16(dm + 16);
    for (int t = 0; t < TN; ++t) {
      acc[t] = F::fma(to_float(sum[t]), F::mul(d, F::set1(x[t].d[b])), acc[t]);
      acc[t] = F::fma(m, F::set1(x[t].s[b]), acc[t]);
    }
  }
}

/// Sums of one leaf of one group for tokens [t0, t0 + TN); `col` is the leaf's first column.
template <int TN>
inline void tile(PackType type, const std::byte* g, uint32_t col, uint32_t cols, const Activations& x,
                 uint32_t t0, F* acc) {
  if (type == PackType::kQ8 || type == PackType::kQ4) {
    QuantRow rows[TN];
    const size_t blocks = x.cols / 32;
    for (int t = 0; t < TN; ++t) {
      const size_t b = (t0 + t) * blocks + col / 32;
      const size_t at = size_t(t0 + t) * x.cols + col;
      rows[t] = {x.q + at, x.lo ? x.lo + at : nullptr, x.d + b, x.s + b, x.isum + b};
    }
    if (type == PackType::kQ8) return x.lo ? q8_tile<TN, true>(g, cols, rows, acc) : q8_tile<TN, false>(g, cols, rows, acc);
    return x.lo ? q4_tile<TN, true>(g, cols, rows, acc) : q4_tile<TN, false>(g, cols, rows, acc);
  }
  const float* rows[TN];
  for (int t = 0; t < TN; ++t) rows[t] = x.f + (t0 + t) * x.ld + col;
  if (type == PackType::kF32) float_tile<F32Weight, TN>(g, cols, rows, acc);
  else if (type == PackType::kF16) float_tile<F16Weight, TN>(g, cols, rows, acc);
  else float_tile<BF16Weight, TN>(g, cols, rows, acc);
}

inline void store_rows(F v, float* out, uint32_t rows) {
  if (rows == 16) return v.store(out);
  float a[16];
  v.store(a);
  for (uint32_t r = 0; r < rows; ++r) out[r] = a[r];
}

template <int TN>
inline void matmul_tile(const PackedMatrix& w, const Activations& x, float* out, size_t out_ld, uint32_t g,
                        uint32_t t0) {
  F acc[TN];
  tile<TN>(w.type, w.group(0, g), 0, w.cols, x, t0, acc);
  const uint32_t rows = w.rows - g * 16 < 16 ? w.rows - g * 16 : 16;
  for (int t = 0; t < TN; ++t) store_rows(acc[t], out + (t0 + t) * out_ld + g * 16, rows);
}

template <int TN>
inline uint64_t leaves_tile(const PackedMatrix& w, const Activations& x, int64_t* out, size_t out_ld, uint32_t g,
                            uint32_t t0) {
  int64_t sums[TN][16] = {};
  uint64_t bad = 0;
  for (uint32_t leaf = 0; leaf < w.leaves(); ++leaf) {
    F acc[TN];
    tile<TN>(w.type, w.group(leaf, g), leaf * w.leaf_cols, w.leaf_width(leaf), x, t0, acc);
    for (int t = 0; t < TN; ++t) bad += add_to_fixed(acc[t], sums[t]);
  }
  const uint32_t rows = w.rows - g * 16 < 16 ? w.rows - g * 16 : 16;
  for (int t = 0; t < TN; ++t)
    for (uint32_t r = 0; r < rows; ++r) out[(t0 + t) * out_ld + g * 16 + r] = sums[t][r];
  return bad;
}

// ---- attention ----------------------------------------------------------------------------------------

/// scores[r][k] = q[r] . K[k] * scale for all keys of the blocks that hold positions 0 .. last.
template <int R, bool Half>
inline void score_keys(const KvView& kv, const float* const* q, uint32_t last, float scale, size_t ld,
                       float* scores) {
  using T = KvElement<Half>;
  for (uint32_t k = 0; k <= last; k += 16) {
    const std::byte* block = kv.base + size_t(kv.blocks[k / kv.block_tokens]) * kv.block_bytes;
    const T* keys = reinterpret_cast<const T*>(block) + size_t(k % kv.block_tokens) * kv.head_dim;
    F acc[R];
    for (int r = 0; r < R; ++r) acc[r] = F::zero();
    for (uint32_t d = 0; d < kv.head_dim; ++d) {
      const F kd = load_weight(keys + size_t(d) * 16);
      for (int r = 0; r < R; ++r) acc[r] = F::fma(kd, F::set1(q[r][d]), acc[r]);
    }
    for (int r = 0; r < R; ++r) F::mul(acc[r], F::set1(scale)).store(scores + r * ld + k);
  }
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

template <int R, bool Half>
inline void attend_rows(const KvView& kv, const float* const* q, const uint32_t* last, float scale,
                        float* const* out, float* scratch) {
  uint32_t top = 0;
  for (int r = 0; r < R; ++r) top = last[r] > top ? last[r] : top;
  const uint32_t n = (top + 16) & ~15u;
  score_keys<R, Half>(kv, q, top, scale, n, scratch);
  float sums[R];
  for (int r = 0; r < R; ++r) sums[r] = softmax_row(scratch + size_t(r) * n, n, last[r]);
  uint32_t d = 0;
  for (; d + 64 <= kv.head_dim; d += 64) mix_values<R, 4, Half>(kv, top, n, scratch, sums, d, out);
  for (; d < kv.head_dim; d += 16) mix_values<R, 1, Half>(kv, top, n, scratch, sums, d, out);
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
    const size_t blocks = x.cols / 32;
    for (uint32_t t = begin; t < end; ++t)
      for (size_t b = 0; b < blocks; ++b) {
        const size_t i = t * blocks + b;
        int32_t sum = 0;
        const size_t at = size_t(t) * x.cols + b * 32;
        x.d[i] = quantise_block(x.f + t * x.ld + b * 32, x.q + at, x.lo ? x.lo + at : nullptr, &sum);
        x.isum[i] = sum;
        x.s[i] = x.d[i] * static_cast<float>(sum);
      }
  }

  void matmul(const PackedMatrix& w, const Activations& x, float* out, size_t ld, uint32_t g0,
              uint32_t g1) const override {
    for (uint32_t g = g0; g < g1; ++g) {
      uint32_t t = 0;
      if constexpr (kWideTile)
        for (; t + 8 <= x.tokens; t += 8) matmul_tile<8>(w, x, out, ld, g, t);
      for (; t + 4 <= x.tokens; t += 4) matmul_tile<4>(w, x, out, ld, g, t);
      for (; t < x.tokens; ++t) matmul_tile<1>(w, x, out, ld, g, t);
    }
  }

  uint64_t matmul_leaves(const PackedMatrix& w, const Activations& x, int64_t* out, size_t ld, uint32_t g0,
                         uint32_t g1) const override {
    uint64_t bad = 0;
    for (uint32_t g = g0; g < g1; ++g) {
      uint32_t t = 0;
      if constexpr (kWideTile)
        for (; t + 8 <= x.tokens; t += 8) bad += leaves_tile<8>(w, x, out, ld, g, t);
      for (; t + 4 <= x.tokens; t += 4) bad += leaves_tile<4>(w, x, out, ld, g, t);
      for (; t < x.tokens; ++t) bad += leaves_tile<1>(w, x, out, ld, g, t);
    }
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
      default: return attend_rows<4, Half>(kv, q, last, scale, out, scratch);
    }
  }
};

}  // namespace
