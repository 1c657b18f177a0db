// Workspace: the buffers of one rank's steps, grown to the largest step and kept. One thread.
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/ops/ops.h"

namespace bp::rt {

/// Activations with their own memory.
class ActivationBuffer {
 public:
  /// Room for [tokens, cols], quantised blocks too when `quantised`, of 16 bits when `wide`.
  Activations shape(uint32_t tokens, uint32_t cols, bool quantised, bool wide = false) {
    const size_t n = size_t(tokens) * cols;
    grow(f_, n);
    Activations a;
    a.tokens = tokens;
    a.cols = cols;
    a.ld = cols;
    a.f = f_.data();
    if (!quantised) return a;
    grow(q_, n);
    grow(d_, n / kQuantBlock);
    grow(s_, n / kQuantBlock);
    grow(zero_, n / kQuantBlock);
    a.q = q_.data();
    if (wide) {
      grow(lo_, n);
      a.lo = lo_.data();
    }
    a.d = d_.data();
    a.s = s_.data();
    a.zero = zero_.data();
    return a;
  }

 private:
  template <class T>
  static void grow(std::vector<T>& v, size_t n) { if (v.size() < n) v.resize(n); }
  std::vector<float> f_, d_, s_;
  std::vector<int8_t> q_, lo_;
  std::vector<int32_t> zero_;
};

struct Workspace {
  std::vector<float> hidden;      // residual stream [tokens, hidden]
  ActivationBuffer normed;        // [tokens, hidden]
  std::vector<float> q, k, v;     // [tokens, heads of this rank, head_dim]
  ActivationBuffer mixed;         // attention output [tokens, q heads * head_dim]
  ActivationBuffer gate;          // [tokens, ffn columns of this rank]
  std::vector<float> up;
  std::vector<int64_t> sums;      // [tokens, hidden] and one count
  std::vector<float> cos, sin;    // [tokens, head_dim / 2]
  std::vector<std::vector<float>> scratch;  // by thread, for attention
};

}  // namespace bp::rt
