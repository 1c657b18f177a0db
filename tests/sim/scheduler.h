// Virtual time and everything that is due. Thread: one.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <queue>
#include <random>
#include <utility>
#include <vector>

namespace bp::sim {

class Scheduler {
 public:
  explicit Scheduler(uint64_t seed) : random(seed) {}
  void at(int64_t ms, std::function<void()> call) { queue_.push({ms, next_++, std::move(call)}); }
  void in(int64_t ms, std::function<void()> call) { at(now + ms, std::move(call)); }
  /// False when nothing is left to do.
  bool step() {
    if (queue_.empty()) return false;
    Due due = std::move(const_cast<Due&>(queue_.top()));
    queue_.pop();
    now = std::max(now, due.at);
    ++steps;
    due.call();
    return true;
  }
  int64_t pick(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  }
  bool chance(double p) {
    return p > 0 && std::uniform_real_distribution<double>(0, 1)(random) < p;
  }

  int64_t now = 1'000'000;
  uint64_t steps = 0;
  std::mt19937_64 random;

 private:
  struct Due {
    int64_t at;
    uint64_t order;
    std::function<void()> call;
    bool operator<(const Due& o) const { return at != o.at ? at > o.at : order > o.order; }
  };
  std::priority_queue<Due> queue_;
  uint64_t next_ = 0;
};

}  // namespace bp::sim
