// ThreadPool: runs the items of a job on a fixed set of threads, the caller among them. Items are handed
// out one by one, so a thread that the system does not schedule holds nobody up: the caller waits only for
// items that were begun. Idle threads spin shortly, then sleep: there may be more ranks than cores.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace bp::rt {

class ThreadPool {
 public:
  /// `threads` includes the caller: 1 starts none.
  explicit ThreadPool(uint32_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  uint32_t threads() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  /// fn(item, thread) for items 0 .. n - 1, thread < threads(); returns when all are done. fn must not
  /// throw or call run. One caller at a time.
  template <class Fn>
  void run(uint32_t n, Fn&& fn) {
    if (n == 0) return;
    if (workers_.empty() || n == 1) {
      for (uint32_t i = 0; i < n; ++i) fn(i, 0u);
      return;
    }
    using Body = std::remove_reference_t<Fn>;
    run_job(n, [](void* body, uint32_t item, uint32_t thread) { (*static_cast<Body*>(body))(item, thread); },
            const_cast<void*>(static_cast<const void*>(&fn)));
  }

 private:
  using Call = void (*)(void*, uint32_t, uint32_t);
  void run_job(uint32_t n, Call call, void* body);
  /// Runs items of generation `generation` until none is left.
  void help(uint32_t generation, uint32_t thread);
  void work(uint32_t thread);

  // High half: generation of the job; low half: next item. Claiming is a compare-exchange on both, so a
  // thread that is late for its generation claims nothing of the next.
  std::atomic<uint64_t> next_{0};
  std::atomic<uint32_t> items_{0};
  std::atomic<Call> call_{nullptr};
  std::atomic<void*> body_{nullptr};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<uint32_t> wake_{0};   // futex word of the workers: the generation
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<uint32_t> caller_sleeps_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace bp::rt
