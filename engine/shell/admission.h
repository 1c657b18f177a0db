// Admission: how many runs are taken in. Runs that somebody works on are bounded by what the
// measured rate gets through in kBacklogMs, so that under overload the age of what people see stays
// bounded; live runs altogether (most of them waiting) by memory. What is refused is refused at
// once, with the time after which there should be room. Thread: the executor's.
#pragma once
#include <algorithm>
#include <cstdint>

namespace bp::shell {

class Admission {
 public:
  static constexpr int64_t kBacklogMs = 200;
  static constexpr size_t kActiveMin = 2'048;      // taken in whatever the rate
  static constexpr size_t kLiveMax = 2'000'000;
  static constexpr int64_t kWindowMs = 250;        // of the rate

  /// 0: as the measured rate allows.
  explicit Admission(size_t active_max) : fixed_(active_max) {}

  bool admit(size_t active, size_t live, int64_t now_ms, uint64_t ended_total) {
    measure(now_ms, ended_total);
    if (active < limit() && live < kLiveMax) return true;
    ++refused_;
    return false;
  }
  /// After what was refused so far in this window, at the present rate.
  int64_t retry_after_ms() const {
    if (rate_per_s_ <= 0) return 1'000;
    const double ms = 1000.0 * static_cast<double>(refused_ + 1) / rate_per_s_;
    return std::clamp<int64_t>(static_cast<int64_t>(ms), 20, 5'000);
  }
  size_t limit() const {
    if (fixed_ > 0) return fixed_;
    return std::max(kActiveMin, static_cast<size_t>(rate_per_s_ * kBacklogMs / 1000));
  }
  double rate_per_s() const { return rate_per_s_; }

 private:
  void measure(int64_t now_ms, uint64_t ended_total) {
    const int64_t passed = now_ms - since_ms_;
    if (since_ms_ == 0 || passed > 10 * kWindowMs) rate_per_s_ = 0;
    if (since_ms_ != 0 && passed < kWindowMs) return;
    if (since_ms_ != 0 && passed <= 10 * kWindowMs) {
      const double now = 1000.0 * static_cast<double>(ended_total - ended_before_) /
                         static_cast<double>(passed);
      rate_per_s_ = rate_per_s_ == 0 ? now : 0.7 * rate_per_s_ + 0.3 * now;
    }
    since_ms_ = now_ms;
    ended_before_ = ended_total;
    refused_ = 0;
  }
  const size_t fixed_;
  int64_t since_ms_ = 0;
  uint64_t ended_before_ = 0, refused_ = 0;
  double rate_per_s_ = 0;
};

}  // namespace bp::shell
