// LoopWatch: how long each turn of the daemon's loop holds it up. What runs is named while it runs;
// a thread of its own looks every kLookMs and names in the log what has held the loop for kStuckMs,
// even when it never returns. Thread: begin/end on the loop; the rest any.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace bp::daemon {

class LoopWatch {
 public:
  static constexpr int64_t kLookMs = 50;
  static constexpr int64_t kStuckMs = 200;
  static constexpr int64_t kSlowMs = 50;

  LoopWatch();
  ~LoopWatch();

  /// One turn; `what` is a literal.
  class Turn {
   public:
    Turn(LoopWatch& watch, const char* what) : watch_(watch) { watch_.begin(what); }
    ~Turn() { watch_.end(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    LoopWatch& watch_;
  };
  /// Longest turn since the last call.
  int64_t take_longest_us() { return longest_us_.exchange(0); }

 private:
  void begin(const char* what);
  void end();
  void look();

  std::atomic<const char*> what_{nullptr};
  std::atomic<int64_t> since_ns_{0}, longest_us_{0};
  int depth_ = 0;
  std::mutex mutex_;
  std::condition_variable stop_changed_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace bp::daemon
