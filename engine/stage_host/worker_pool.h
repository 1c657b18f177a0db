// WorkerPool: the threads on which a shared host runs attempts. Stages of microseconds share `base` threads;
// while some wait (as they tell the host), or take their time (seen by look()), further threads are started,
// up to `most`. A thread that had nothing to do for kIdleMs ends.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "engine/stage_host/shared_attempt.h"

namespace bp::stage_host {

class WorkerPool {
 public:
  /// `run` is called on a worker for each attempt; `wake` (any thread) when take_done() is worth a call.
  WorkerPool(unsigned base, unsigned most, std::function<void(SharedAttempt&)> run, std::function<void()> wake);
  // Threads inside a stage cannot be ended: whoever owns a pool ends the process with it. Idle ones end.
  ~WorkerPool();

  // Thread of the loop.
  void add(const std::vector<SharedAttempt*>& attempts);
  void take_done(std::vector<SharedAttempt*>& into);
  /// Starts a thread when attempts wait and none was taken since the last call; call it every kLookMs while
  /// it returns true (attempts or their results still lie here).
  bool look();

  // Any thread.
  void waits(int change);
  unsigned threads() const;
  /// Attempts that a thread has taken up and not ended.
  unsigned running() const;

  static constexpr int64_t kLookMs = 2;
  static constexpr int64_t kIdleMs = 10'000;
  static constexpr size_t kDoneMany = 64;  // results are handed over when the queue is empty, or by so many

 private:
  void work();
  void grow();  // holding mutex_

  const unsigned base_, most_;
  const std::function<void(SharedAttempt&)> run_;
  const std::function<void()> wake_;
  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable ended_;
  std::deque<SharedAttempt*> queue_;
  std::vector<SharedAttempt*> done_;
  unsigned threads_ = 0, idle_ = 0, waiting_ = 0, running_ = 0;
  uint64_t taken_ = 0, taken_before_ = 0;
  bool stop_ = false;
};

}  // namespace bp::stage_host
