#include "runtime/text/merger.h"

#include <queue>
#include <tuple>

namespace bp::rt {
namespace {

struct Candidate {
  int64_t priority;
  uint32_t left;
  uint32_t right;
  uint32_t size;  // of both together: a candidate whose symbols changed since is stale
  int64_t token;
  bool operator>(const Candidate& o) const {
    return std::tie(priority, left) > std::tie(o.priority, o.left);
  }
};

}  // namespace

std::vector<Symbol> merge_symbols(std::vector<Symbol> symbols, const MergeLookup& lookup) {
  constexpr uint32_t kNone = UINT32_MAX;
  auto n = static_cast<uint32_t>(symbols.size());
  std::vector<uint32_t> next(n), previous(n);
  for (uint32_t i = 0; i < n; ++i) {
    next[i] = i + 1 < n ? i + 1 : kNone;
    previous[i] = i > 0 ? i - 1 : kNone;
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  auto offer = [&](uint32_t left, uint32_t right) {
    if (left == kNone || right == kNone) return;
    if (auto merge = lookup(symbols[left], symbols[right])) {
      queue.push(
          {merge->priority, left, right, symbols[left].size + symbols[right].size, merge->token});
    }
  };
  for (uint32_t i = 0; i + 1 < n; ++i) offer(i, i + 1);
  while (!queue.empty()) {
    Candidate c = queue.top();
    queue.pop();
    Symbol& left = symbols[c.left];
    Symbol& right = symbols[c.right];
    if (left.size == 0 || right.size == 0 || next[c.left] != c.right ||
        left.size + right.size != c.size)
      continue;
    left.size = c.size;
    left.token = c.token;
    right.size = 0;
    next[c.left] = next[c.right];
    if (next[c.left] != kNone) previous[next[c.left]] = c.left;
    offer(previous[c.left], c.left);
    offer(c.left, next[c.left]);
  }
  std::vector<Symbol> out;
  for (const Symbol& s : symbols) {
    if (s.size > 0) out.push_back(s);
  }
  return out;
}

}  // namespace bp::rt
