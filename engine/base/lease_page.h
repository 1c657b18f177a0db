// LeasePage: one page of shared memory through which a rank shows its node agent until when it may run.
// The rank writes the deadline whenever the head renews its lease; the agent kills a rank whose lease
// has lapsed, and a rank refuses to step without one.
#pragma once
#include <atomic>
#include <cstdint>

namespace bp {

struct LeasePage {
  static constexpr uint64_t kMagic = 0x4250'4c45'4153'4531;  // "BPLEASE1"
  static constexpr uint64_t kSize = 4096;
  std::atomic<uint64_t> magic;
  /// CLOCK_MONOTONIC nanoseconds. 0: no lease yet (the agent waits for the first one).
  std::atomic<int64_t> deadline_ns;
};
static_assert(std::atomic<int64_t>::is_always_lock_free && sizeof(LeasePage) <= LeasePage::kSize);

}  // namespace bp
