// Ops: the arithmetic of a model on one thread's share of rows. Implementations: a plain reference and
// vectorised ones; all of them give the same bits, because every sum has one written order:
//   - a matrix row is summed over its columns (blocks of 32 columns for quantised weights) in ascending
//     order, by fused multiply-add, whatever the number of tokens; for BF16 weights, by pairs of columns, the odd
//     column first, pairs 0, 2, 4 ... and pairs 1, 3, 5 ... apart, then their two sums together;
//   - a reduction over a vector keeps 16 partial sums, element i in partial i % 16, joined by
//     (j, j + 8), (j, j + 4), (j, j + 2), (j, j + 1);
//   - scores are summed over head_dim, attention outputs over key positions, in ascending order.
// Nothing here allocates, waits or fails; numbers that are not finite come out as not finite or are counted.
// Any thread; an Ops holds no state.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/tensor/packed.h"

namespace bp::rt {

/// Fixed-point scale of sums across a cut, and the largest leaf sum that is accepted.
inline constexpr float kFixedOne = 4294967296.0f;      // 2^32
inline constexpr float kLeafMax = 1048576.0f;          // 2^20: 2^11 leaves cannot overflow an int64

/// Activations [tokens, cols] as the kernels read them: FP32 rows with stride `ld`, and for quantised
/// weights blocks of 32 as Q * d. 8 bits: Q = q, |q| <= 127. 16 bits, where `lo` is given: Q = 128 * q + lo,
/// |Q| <= 16256, -64 <= lo < 64. d; s = d * sum(Q); zero = -128 * sum(Q), which weights that are stored with
/// 128 added have too much.
/// Tokens lie in panels of 8, the rest in one of 4, 2 and 1 as it needs: q, lo [panel][cols / 4][token][4];
/// d, s, zero [panel][cols / 32][token]. For BF16 weights h: FP32 rounded to BF16 [panel][cols / 2][token][2].
struct Activations {
  uint32_t tokens = 0;
  uint32_t cols = 0;
  size_t ld = 0;
  float* f = nullptr;
  int8_t* q = nullptr;
  int8_t* lo = nullptr;
  float* d = nullptr;
  float* s = nullptr;
  int32_t* zero = nullptr;
  uint16_t* h = nullptr;
};

inline constexpr uint32_t kPanelTokens = 8;
/// Tokens of the panel that begins at token `begin` of `tokens`.
[[gnu::always_inline]] inline uint32_t panel_width(uint32_t begin, uint32_t tokens) {
  const uint32_t left = tokens - begin;
  return left >= kPanelTokens ? kPanelTokens : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}
/// First token of the panel that holds token t.
[[gnu::always_inline]] inline uint32_t panel_begin(uint32_t t, uint32_t tokens) {
  uint32_t begin = t / kPanelTokens * kPanelTokens;
  for (uint32_t width = panel_width(begin, tokens); t >= begin + width; width = panel_width(begin, tokens))
    begin += width;
  return begin;
}

/// One KV head of one sequence as the cache holds it: per block K as [block_tokens / 16][head_dim][16] and
/// V as [block_tokens][head_dim], elements FP32 or F16.
struct KvView {
  const std::byte* base = nullptr;   // block 0 of this layer and head
  size_t block_bytes = 0;            // K and V of one block
  const uint32_t* blocks = nullptr;  // block ids of the sequence
  uint32_t block_tokens = 0;
  uint32_t head_dim = 0;
  bool f16 = false;
};

class Ops {
 public:
  virtual ~Ops() = default;
  virtual const char* name() const = 0;   // "reference", "portable", "avx2", "avx512-vnni", "avx512-vnni-bf16"

  /// x.q, x.lo, x.d, x.s, x.zero, x.h, as far as given, from x.f for tokens [begin, end). A block that is not finite
  /// gets d = NaN.
  virtual void quantise(const Activations& x, uint32_t begin, uint32_t end) const = 0;
  /// out[t * out_ld + row] for rows of groups [group_begin, group_end); w has one leaf. Rows beyond
  /// w.rows are not written.
  virtual void matmul(const PackedMatrix& w, const Activations& x, float* out, size_t out_ld,
                      uint32_t group_begin, uint32_t group_end) const = 0;
  /// out[t * out_ld + row] = sum over leaves of round(leaf sum * 2^32). Returns how many leaf sums were
  /// not finite or beyond kLeafMax (they count as 0).
  virtual uint64_t matmul_leaves(const PackedMatrix& w, const Activations& x, int64_t* out, size_t out_ld,
                                 uint32_t group_begin, uint32_t group_end) const = 0;
  /// x[i] += fixed[i] * 2^-32
  virtual void add_fixed(float* x, const int64_t* fixed, size_t n) const = 0;
  /// out = x / sqrt(mean(x^2) + eps) * weight (RMSNorm, Zhang and Sennrich 2019).
  virtual void rms_norm(const float* x, const float* weight, float eps, uint32_t n, float* out) const = 0;
  /// In place on [heads, head_dim], pairs (i, i + head_dim / 2) (RoFormer, in the order of rotate_half).
  /// cos, sin: [head_dim / 2]
  virtual void rope(float* x, uint32_t heads, uint32_t head_dim, const float* cos, const float* sin) const = 0;
  /// gate = silu(gate) * up
  virtual void silu_mul(float* gate, const float* up, size_t n) const = 0;
  /// Stores one token's k and v [head_dim] at `slot` of a block.
  virtual void store_kv(std::byte* block, uint32_t slot, uint32_t block_tokens, uint32_t head_dim, bool f16,
                        const float* k, const float* v) const = 0;
  /// out[r] = softmax(q[r] . K * scale) V over key positions 0 .. last[r], for `rows` <= 8 queries that
  /// share a KV head. scratch: attend_scratch(rows, largest last, head_dim) floats.
  virtual void attend(const KvView& kv, uint32_t rows, const float* const* q, const uint32_t* last,
                      float scale, float* const* out, float* scratch) const = 0;
  /// The first of the largest values; n when any number is not finite.
  virtual size_t largest_index(const float* x, size_t n) const = 0;
  /// Largest value, and sum of exp(x - largest); NaN when any number is not finite.
  virtual void max_and_exp_sum(const float* x, size_t n, float* largest, float* sum) const = 0;
};

inline constexpr uint32_t kAttendRows = 8;
inline size_t attend_scratch(uint32_t rows, uint32_t last, uint32_t head_dim) {
  return size_t(rows) * ((size_t(last) + 16) / 16 * 16 + head_dim);
}

/// Slow and plain: what the others are checked against.
const Ops& reference_ops();
/// All vectorised implementations that this machine can run, best first; the portable one is last.
std::vector<const Ops*> usable_ops();
/// The best one, or what $BP_OPS names by its name (or "reference"), if it can run.
const Ops& best_ops();

}  // namespace bp::rt
