// The plain reference: every op as its definition in ops.h reads, one number at a time.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "runtime/ops/kernel_types.h"
#include "runtime/ops/ops.h"
#include "runtime/tensor/half.h"

namespace bp::rt {
namespace {

float join(std::vector<float> partial) {
  for (size_t w = 8; w > 0; w /= 2)
    for (size_t j = 0; j < w; ++j) partial[j] += partial[j + w];
  return partial[0];
}

float exp_one(float x) {
  if (std::isnan(x)) return x;
  x = std::clamp(x, kExpLow, kExpHigh);
  const float n = std::fma(x, kLog2E, kRoundMagic) - kRoundMagic;
  const float r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, x));
  float p = kExpPoly[0];
  for (int i = 1; i < 8; ++i) p = std::fma(p, r, kExpPoly[i]);
  return std::ldexp(p, static_cast<int>(n));
}

uint16_t load16(const std::byte* p) { uint16_t v; std::memcpy(&v, p, 2); return v; }

/// A float-type weight of a group: column c, row r.
float float_weight(PackType type, const std::byte* g, uint32_t c, uint32_t r) {
  const size_t i = type == PackType::kBF16 ? bf16_at(c, r) : size_t(c) * kGroupRows + r;
  if (type == PackType::kF32) { float v; std::memcpy(&v, g + i * 4, 4); return v; }
  const uint16_t h = load16(g + i * 2);
  return type == PackType::kF16 ? f16_to_float(h) : bf16_to_float(h);
}

/// The integer of a quantised weight of a group.
int quant_weight(PackType type, const std::byte* g, uint32_t c, uint32_t r) {
  const uint32_t b = c / 32, k = c % 32;
  if (type == PackType::kQ8) return int(g[q8_block_at(b) + k / 4 * 64 + r * 4 + k % 4]) - 128;
  const int both = int(g[q4_block_at(b) + k / 4 % 4 * 64 + r * 4 + k % 4]);
  return k < 16 ? both & 15 : both >> 4;
}

/// Where a quantised activation and a block's scale lie.
size_t quant_at(const Activations& x, uint32_t t, uint32_t c) {
  const uint32_t begin = panel_begin(t, x.tokens), width = panel_width(begin, x.tokens);
  return size_t(begin) * x.cols + (size_t(c / 4) * width + (t - begin)) * 4 + c % 4;
}
size_t scale_at(const Activations& x, uint32_t t, uint32_t b) {
  const uint32_t begin = panel_begin(t, x.tokens), width = panel_width(begin, x.tokens);
  return size_t(begin) * (x.cols / 32) + size_t(b) * width + (t - begin);
}

size_t half_at(const Activations& x, uint32_t t, uint32_t c) {
  const uint32_t begin = panel_begin(t, x.tokens), width = panel_width(begin, x.tokens);
  return size_t(begin) * x.cols + (size_t(c / 2) * width + (t - begin)) * 2 + c % 2;
}

/// The integer of a quantised activation.
int quant_input(const Activations& x, size_t i) { return x.lo ? x.q[i] * 128 + x.lo[i] : x.q[i]; }

/// One row of one leaf times one token.
float leaf_sum(const PackedMatrix& w, const Activations& x, uint32_t leaf, uint32_t row, uint32_t t) {
  const std::byte* g = w.group(leaf, row / kGroupRows);
  const uint32_t r = row % kGroupRows, cols = w.leaf_width(leaf), col = leaf * w.leaf_cols;
  float acc = 0;
  if (w.type == PackType::kBF16) {
    float sums[2] = {0, 0};
    for (uint32_t c = 0; c < cols; c += 2)
      for (const uint32_t at : {c + 1, c}) {
        float& sum = sums[c / 2 % 2];
        sum = std::fma(float_weight(w.type, g, at, r), bf16_to_float(x.h[half_at(x, t, col + at)]), sum);
      }
    return sums[0] + sums[1];
  }
  if (!is_quantised(w.type)) {
    for (uint32_t c = 0; c < cols; ++c) acc = std::fma(float_weight(w.type, g, c, r), x.f[t * x.ld + col + c], acc);
    return acc;
  }
  const uint32_t blocks = cols / 32;
  for (uint32_t b = 0; b < blocks; ++b) {
    const size_t xb = scale_at(x, t, col / 32 + b);
    int sum = 0;
    for (uint32_t k = 0; k < 32; ++k)
      sum += quant_weight(w.type, g, b * 32 + k, r) * quant_input(x, quant_at(x, t, col + b * 32 + k));
    if (w.type == PackType::kQ8) {
      const float d = f16_to_float(load16(g + q8_scale_at(b, blocks) + r * 2));
      acc = std::fma(float(sum), d * x.d[xb], acc);
    } else {
      const std::byte* dm = g + q4_block_at(b) + kQ4ScaleAt + r * 2;
      acc = std::fma(float(sum), f16_to_float(load16(dm)) * x.d[xb], acc);
      acc = std::fma(f16_to_float(load16(dm + 32)), x.s[xb], acc);
    }
  }
  return acc;
}

float kv_element(const std::byte* p, size_t i, bool f16) {
  if (f16) return f16_to_float(load16(p + i * 2));
  float v;
  std::memcpy(&v, p + i * 4, 4);
  return v;
}

class ReferenceOps final : public Ops {
 public:
  const char* name() const override { return "reference"; }

  void quantise(const Activations& x, uint32_t begin, uint32_t end) const override {
    for (uint32_t t = begin; t < end && x.h; ++t)
      for (uint32_t c = 0; c < x.cols; ++c) x.h[half_at(x, t, c)] = nearest_bf16(x.f[t * x.ld + c]);
    for (uint32_t t = begin; t < end && x.q; ++t)
      for (uint32_t b = 0; b < x.cols / 32; ++b) {
        const float* f = x.f + t * x.ld + b * 32;
        const size_t i = scale_at(x, t, b);
        float largest = 0;
        bool finite = true;
        for (int k = 0; k < 32; ++k) {
          finite = finite && std::isfinite(f[k]);
          largest = std::max(largest, std::fabs(f[k]));
        }
        const bool usable = finite && largest >= kQuantTiny;
        const float range = x.lo ? kQuant16 : kQuant8;
        int sum = 0;
        for (int k = 0; k < 32; ++k) {
          const int q = usable ? int(std::nearbyint(f[k] * (range / largest))) : 0;
          const int high = x.lo ? int(std::floor((q + 64) / 128.0)) : q;
          const size_t at = quant_at(x, t, b * 32 + static_cast<uint32_t>(k));
          x.q[at] = static_cast<int8_t>(high);
          if (x.lo) x.lo[at] = static_cast<int8_t>(q - high * 128);
          sum += q;
        }
        x.d[i] = usable ? largest / range : finite ? 0.0f : std::nanf("");
        x.s[i] = x.d[i] * float(sum);
        x.zero[i] = -128 * sum;
      }
  }

  void matmul(const PackedMatrix& w, const Activations& x, float* out, size_t ld, uint32_t g0,
              uint32_t g1) const override {
    for (uint32_t row = g0 * kGroupRows; row < std::min(w.rows, g1 * kGroupRows); ++row)
      for (uint32_t t = 0; t < x.tokens; ++t) out[t * ld + row] = leaf_sum(w, x, 0, row, t);
  }

  uint64_t matmul_leaves(const PackedMatrix& w, const Activations& x, int64_t* out, size_t ld, uint32_t g0,
                         uint32_t g1) const override {
    uint64_t bad = 0;
    for (uint32_t row = g0 * kGroupRows; row < std::min(w.rows, g1 * kGroupRows); ++row)
      for (uint32_t t = 0; t < x.tokens; ++t) {
        int64_t sum = 0;
        for (uint32_t leaf = 0; leaf < w.leaves(); ++leaf) {
          const float v = leaf_sum(w, x, leaf, row, t);
          if (std::fabs(v) < kLeafMax) sum += std::llrint(v * kFixedOne);
          else ++bad;
        }
        out[t * ld + row] = sum;
      }
    return bad;
  }

  void add_fixed(float* x, const int64_t* fixed, size_t n) const override {
    for (size_t i = 0; i < n; ++i) x[i] += float(fixed[i]) / kFixedOne;
  }

  void rms_norm(const float* x, const float* weight, float eps, uint32_t n, float* out) const override {
    std::vector<float> partial(16);
    for (uint32_t i = 0; i < n; ++i) partial[i % 16] = std::fma(x[i], x[i], partial[i % 16]);
    const float scale = 1.0f / std::sqrt(join(partial) / float(n) + eps);
    for (uint32_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
  }

  void rope(float* x, uint32_t heads, uint32_t head_dim, const float* cos, const float* sin) const override {
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < heads; ++h)
      for (uint32_t i = 0; i < half; ++i) {
        float* a = x + size_t(h) * head_dim + i;
        const float x0 = a[0], x1 = a[half];
        a[0] = x0 * cos[i] - x1 * sin[i];
        a[half] = x1 * cos[i] + x0 * sin[i];
      }
  }

  void silu_mul(float* gate, const float* up, size_t n) const override {
    for (size_t i = 0; i < n; ++i) gate[i] = gate[i] / (1.0f + exp_one(0.0f - gate[i])) * up[i];
  }

  void store_kv(std::byte* block, uint32_t slot, uint32_t block_tokens, uint32_t head_dim, bool f16,
                const float* k, const float* v) const override {
    for (uint32_t d = 0; d < head_dim; ++d) {
      put(block, (size_t(slot / 16) * head_dim + d) * 16 + slot % 16, f16, k[d]);
      put(block, size_t(block_tokens + slot) * head_dim + d, f16, v[d]);
    }
  }

  void attend(const KvView& kv, uint32_t rows, const float* const* q, const uint32_t* last, float scale,
              float* const* out, float* scratch) const override {
    for (uint32_t r = 0; r < rows; ++r) attend_one(kv, q[r], last[r], scale, out[r]);
  }

  size_t largest_index(const float* x, size_t n) const override {
    if (!std::all_of(x, x + n, [](float v) { return std::isfinite(v); })) return n;
    return static_cast<size_t>(std::max_element(x, x + n) - x);
  }

  void max_and_exp_sum(const float* x, size_t n, float* largest, float* sum) const override {
    const bool finite = std::all_of(x, x + n, [](float v) { return std::isfinite(v); });
    *largest = finite ? *std::max_element(x, x + n) : std::nanf("");
    std::vector<float> partial(16);
    for (size_t i = 0; i < n; ++i) partial[i % 16] += exp_one(x[i] - *largest);
    *sum = join(partial);
  }

 private:
  static void put(std::byte* p, size_t i, bool f16, float x) {
    const uint16_t h = float_to_f16(x);
    if (f16) std::memcpy(p + i * 2, &h, 2);
    else std::memcpy(p + i * 4, &x, 4);
  }

  static void attend_one(const KvView& kv, const float* q, uint32_t last, float scale, float* out) {
    std::vector<float> p(last + 1), partial(16);
    const auto block = [&](uint32_t k) { return kv.base + size_t(kv.blocks[k / kv.block_tokens]) * kv.block_bytes; };
    for (uint32_t k = 0; k <= last; ++k) {
      const uint32_t slot = k % kv.block_tokens;
      float acc = 0;
      for (uint32_t d = 0; d < kv.head_dim; ++d)
        acc = std::fma(kv_element(block(k), (size_t(slot / 16) * kv.head_dim + d) * 16 + slot % 16, kv.f16), q[d], acc);
      p[k] = acc * scale;
    }
    const float top = *std::max_element(p.begin(), p.end());
    for (uint32_t k = 0; k <= last; ++k) {
      p[k] = exp_one(p[k] - top);
      partial[k % 16] += p[k];
    }
    const float sum = join(partial);
    for (uint32_t d = 0; d < kv.head_dim; ++d) {
      float acc = 0;
      for (uint32_t k = 0; k <= last; ++k) {
        const size_t i = size_t(kv.block_tokens + k % kv.block_tokens) * kv.head_dim + d;
        acc = std::fma(kv_element(block(k), i, kv.f16), p[k], acc);
      }
      out[d] = acc / sum;
    }
  }
};

}  // namespace

const Ops& reference_ops() {
  static const ReferenceOps ops;
  return ops;
}

}  // namespace bp::rt
