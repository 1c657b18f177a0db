#include "engine/daemon/loop_watch.h"

#include <chrono>

#include "engine/base/clock.h"
#include "engine/base/log.h"

namespace bp::daemon {

LoopWatch::LoopWatch() : thread_([this] { look(); }) {}

LoopWatch::~LoopWatch() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  thread_.join();
}

void LoopWatch::begin(const char* what) {
  if (depth_++ > 0) return;
  since_ns_.store(monotonic_ns(), std::memory_order_relaxed);
  what_.store(what, std::memory_order_release);
}

void LoopWatch::end() {
  if (--depth_ > 0) return;
  const char* what = what_.exchange(nullptr, std::memory_order_relaxed);
  const int64_t us = (monotonic_ns() - since_ns_.load(std::memory_order_relaxed)) / 1000;
  if (us > longest_us_.load(std::memory_order_relaxed)) longest_us_.store(us);
  if (us > kSlowMs * 1000) BP_LOG(warn, "loop.slow", "turn={} ms={}", what, us / 1000);
}

void LoopWatch::look() {
  int64_t named = 0;
  std::unique_lock lock(mutex_);
  while (!stop_changed_.wait_for(lock, std::chrono::milliseconds(kLookMs), [this] { return stop_; })) {
    const char* what = what_.load(std::memory_order_acquire);
    const int64_t since = since_ns_.load(std::memory_order_relaxed);
    const int64_t ms = (monotonic_ns() - since) / 1'000'000;
    if (!what || ms < kStuckMs || since == named) continue;
    named = since;
    BP_LOG(err, "loop.stuck", "turn={} ms={}", what, ms);
  }
}

}  // namespace bp::daemon
