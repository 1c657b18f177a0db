#include "runtime/parallel/thread_pool.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace bp::rt {
namespace {

// Long enough for the gap between two jobs of a layer, short enough to leave the core to another rank.
constexpr int kSpins = 4000;
constexpr int kCallerSpins = 4000;

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Sleeps while *word == seen, at most 50 ms: a waker that was missed costs no more than that.
void futex_sleep(std::atomic<uint32_t>& word, uint32_t seen) {
  const timespec limit{0, 50'000'000};
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, &limit, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

uint32_t generation_of(uint64_t next) { return static_cast<uint32_t>(next >> 32); }

}  // namespace

ThreadPool::ThreadPool(uint32_t threads) {
  for (uint32_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  wake_.fetch_add(1);
  futex_wake(wake_);
  for (std::thread& t : workers_) t.join();
}

void ThreadPool::run_job(uint32_t n, Call call, void* body) {
  const uint32_t generation = generation_of(next_.load(std::memory_order_relaxed)) + 1;
  // From here on a late thread of the last job claims nothing: the generation has changed. What it reads
  // below belongs to a claim that fails.
  next_.store(uint64_t(generation) << 32 | UINT32_MAX);
  items_.store(n, std::memory_order_relaxed);
  call_.store(call, std::memory_order_relaxed);
  body_.store(body, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  next_.store(uint64_t(generation) << 32);
  wake_.store(generation);
  if (sleepers_.load() > 0) futex_wake(wake_);
  help(generation, 0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != n;) {
    if (++spins < kCallerSpins) {
      pause_cpu();
      continue;
    }
    caller_sleeps_.store(1);
    const uint32_t seen = done_.load();
    if (seen != n) futex_sleep(done_, seen);
    caller_sleeps_.store(0);
  }
}

void ThreadPool::help(uint32_t generation, uint32_t thread) {
  uint64_t next = next_.load();
  while (generation_of(next) == generation) {
    const uint32_t n = items_.load(std::memory_order_relaxed);
    const Call call = call_.load(std::memory_order_relaxed);
    void* body = body_.load(std::memory_order_relaxed);
    const auto item = static_cast<uint32_t>(next);
    if (item >= n) return;
    if (!next_.compare_exchange_weak(next, next + 1)) continue;
    call(body, item, thread);
    const uint32_t done = done_.fetch_add(1) + 1;
    if (done == n && caller_sleeps_.load()) futex_wake(done_);
    next = next_.load();
  }
}

void ThreadPool::work(uint32_t thread) {
  uint32_t seen = 0;
  for (int spins = 0; !stop_.load(std::memory_order_relaxed);) {
    const uint32_t now = wake_.load();
    if (now != seen) {
      seen = now;
      spins = 0;
      help(now, thread);
      continue;
    }
    if (++spins < kSpins) {
      pause_cpu();
      continue;
    }
    sleepers_.fetch_add(1);
    if (wake_.load() == seen && !stop_.load()) futex_sleep(wake_, seen);
    sleepers_.fetch_sub(1);
  }
}

}  // namespace bp::rt
