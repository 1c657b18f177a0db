#include "engine/base/clock.h"

#include <algorithm>
#include <ctime>
#include <fstream>
#include <string>

namespace bp {
namespace {
int64_t read_ns(clockid_t id) {
  timespec t{};
  clock_gettime(id, &t);
  return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}
}  // namespace

int64_t SystemClock::wall_ms() const { return read_ns(CLOCK_REALTIME) / 1'000'000; }
int64_t SystemClock::boot_ms() const { return read_ns(CLOCK_BOOTTIME) / 1'000'000; }
int64_t monotonic_ns() { return read_ns(CLOCK_MONOTONIC); }

const char* boot_id() {
  static const std::string id = [] {
    std::string s;
    std::ifstream("/proc/sys/kernel/random/boot_id") >> s;
    return s;
  }();
  return id.c_str();
}

int64_t Deadline::left_ms() const {
  return std::max<int64_t>(0, (at_ns_ - monotonic_ns() + 999'999) / 1'000'000);
}
}  // namespace bp
