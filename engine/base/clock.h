// Clocks as an interface, so that a test can own time. Durations are int64 milliseconds or nanoseconds.
#pragma once
#include <cstdint>

namespace bp {

class Clock {
 public:
  virtual ~Clock() = default;
  /// Milliseconds since the Unix epoch; may jump. For display and cron only.
  virtual int64_t wall_ms() const = 0;
  /// Milliseconds since boot, suspended time included (CLOCK_BOOTTIME). For timers and leases.
  virtual int64_t boot_ms() const = 0;
};

/// The machine's clocks. Any thread.
class SystemClock final : public Clock {
 public:
  int64_t wall_ms() const override;
  int64_t boot_ms() const override;
};

/// Nanoseconds of CLOCK_MONOTONIC: for measuring and for deadlines inside one process.
int64_t monotonic_ns();
/// Identity of this boot (/proc/sys/kernel/random/boot_id): boot_ms of different boots must not be compared.
const char* boot_id();

/// A point on CLOCK_MONOTONIC by which something must have happened.
class Deadline {
 public:
  static Deadline in_ms(int64_t ms) { return Deadline(monotonic_ns() + ms * 1'000'000); }
  static Deadline at_ns(int64_t ns) { return Deadline(ns); }
  bool passed() const { return monotonic_ns() >= at_ns_; }
  int64_t left_ms() const;  // never negative
  int64_t ns() const { return at_ns_; }

 private:
  explicit Deadline(int64_t at_ns) : at_ns_(at_ns) {}
  int64_t at_ns_;
};

}  // namespace bp
