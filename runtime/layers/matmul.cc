// Work that a layer deals to the threads of the pool. How it is dealt never changes a result: rows and
// tokens are independent of each other.
#include <algorithm>

#include "runtime/layers/llama_layer.h"

namespace bp::rt {
namespace {

constexpr uint32_t kItemsPerThread = 6;   // enough to level out threads that lose their core
constexpr uint32_t kTokensPerItem = 8;

}  // namespace

void run_matmuls(const Ops& ops, ThreadPool& pool, std::span<const MatmulJob> jobs, const Activations& x) {
  uint32_t groups = 0;
  for (const MatmulJob& j : jobs) groups += j.weights->groups();
  const uint32_t items = std::min(groups, pool.threads() == 1 ? 1 : pool.threads() * kItemsPerThread);
  pool.run(items, [&](uint32_t item, uint32_t) {
    uint32_t begin = static_cast<uint32_t>(uint64_t(groups) * item / items);
    uint32_t end = static_cast<uint32_t>(uint64_t(groups) * (item + 1) / items);
    for (const MatmulJob& j : jobs) {
      const uint32_t n = j.weights->groups();
      if (begin < n) ops.matmul(*j.weights, x, j.out, j.ld, begin, std::min(end, n));
      if (end <= n) return;
      begin = begin > n ? begin - n : 0;
      end -= n;
    }
  });
}

void normalise(const Ops& ops, ThreadPool& pool, const float* x, const float* weight, float eps,
               const Activations& out) {
  const uint32_t items = (out.tokens + kTokensPerItem - 1) / kTokensPerItem;
  pool.run(items, [&](uint32_t item, uint32_t) {
    const uint32_t begin = item * kTokensPerItem, end = std::min(out.tokens, begin + kTokensPerItem);
    for (uint32_t t = begin; t < end; ++t)
      ops.rms_norm(x + size_t(t) * out.cols, weight, eps, out.cols, out.f + t * out.ld);
    if (out.q || out.h) ops.quantise(out, begin, end);
  });
}

void quantise_all(const Ops& ops, ThreadPool& pool, const Activations& x) {
  if (!x.q && !x.h) return;
  const uint32_t items = (x.tokens + kTokensPerItem - 1) / kTokensPerItem;
  pool.run(items, [&](uint32_t item, uint32_t) {
    ops.quantise(x, item * kTokensPerItem, std::min(x.tokens, (item + 1) * kTokensPerItem));
  });
}

}  // namespace bp::rt
