// How a thread that waits for another process looks again before it sleeps. Where every compute thread of the
// ranks here has a core, it looks for as long as ranks differ within a layer; where there are more threads than
// cores, each look gives the core away at once, for the one waited for may need it. Soon it does so anyway: another
// program may have put both on one core, and a yield without a taker costs 0.3 us.
#pragma once
#include <sched.h>

#include <cstdint>
#include <thread>

#include "engine/base/clock.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bp::rt {

struct SpinPolicy {
  int64_t pause_ns = 0;   // looks without leaving the core
  int64_t total_ns = 0;   // after it sched_yield between looks until here; then sleep
};

/// `busy`: compute threads of all ranks on this machine.
inline SpinPolicy spin_policy(uint32_t busy) {
  return busy <= std::thread::hardware_concurrency() ? SpinPolicy{2'000, 300'000} : SpinPolicy{0, 40'000};
}

class Spinner {
 public:
  explicit Spinner(SpinPolicy policy) : policy_(policy), begin_ns_(monotonic_ns()) {}
  /// Passes a moment; false when it is time to sleep.
  bool again() {
    const int64_t spent = monotonic_ns() - begin_ns_;
    if (spent < policy_.pause_ns) {
#if defined(__x86_64__)
      for (int i = 0; i < 4; ++i) _mm_pause();
#endif
      return true;
    }
    if (spent >= policy_.total_ns) return false;
    ::sched_yield();
    return true;
  }

 private:
  const SpinPolicy policy_;
  const int64_t begin_ns_;
};

}  // namespace bp::rt
