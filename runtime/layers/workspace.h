// Workspace: the buffers of one rank's steps, grown to the largest step and kept. One thread.
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/ops/ops.h"

namespace bp::rt {

/// What matrices read beside FP32: blocks of 8 or 16 bits, BF16.
struct ActivationForms {
  bool quantised = false, wide = false, bf16 = false;
  ActivationForms& serve(PackType type) {
    quantised = quantised || is_quantised(type);
    bf16 = bf16 || type == PackType::kBF16;
    return *this;
  }
};

/// Activations with their own memory.
class ActivationBuffer {
 public:
  Activations shape(uint32_t tokens, uint32_t cols, const ActivationForms& forms) {
    const size_t n = size_t(tokens) * cols;
    grow(f_, n);
    Activations a;
    a.tokens = tokens;
    a.cols = cols;
    a.ld = cols;
    a.f = f_.data();
    if (forms.bf16) {
      grow(h_, n);
      a.h = h_.data();
    }
    if (!forms.quantised) return a;
    grow(q_, n);
    grow(d_, n / kQuantBlock);
    grow(s_, n / kQuantBlock);
    grow(zero_, n / kQuantBlock);
    a.q = q_.data();
    if (forms.wide) {
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
  std::vector<uint16_t> h_;
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
