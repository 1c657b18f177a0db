#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "runtime/device/stream.h"

namespace bp::rt {
namespace {

class CpuStream final : public Stream {
 public:
  CpuStream() : thread_([this] { run(); }) {}

  // Work that has not begun is dropped; work under way is waited for (its own deadlines bound it).
  ~CpuStream() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void enqueue(Work work) override {
    {
      std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
      ++enqueued_;
    }
    changed_.notify_all();
  }

  Event record() override {
    std::lock_guard lock(mutex_);
    return enqueued_;
  }

  Status wait(Event event, Deadline deadline) override {
    std::unique_lock lock(mutex_);
    BP_CHECK(event <= enqueued_);
    while (done_ < event && !failure_) {
      int64_t left_ns = deadline.ns() - monotonic_ns();
      if (left_ns <= 0) {
        return Error{ErrorCode::kDeadlineExceeded,
                     "waited for work " + std::to_string(event) + " of the stream, which has done " +
                         std::to_string(done_),
                     {}};
      }
      changed_.wait_for(lock, std::chrono::nanoseconds(left_ns));
    }
    if (failure_) return *failure_;
    return {};
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });  // untimed: its own queue
      if (stopping_) return;
      Work work = std::move(queue_.front());
      queue_.pop_front();
      if (!failure_) {
        lock.unlock();
        Status status = work();
        work = nullptr;  // what it holds dies outside the lock
        lock.lock();
        if (!status.ok()) failure_ = status.error();
      }
      ++done_;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Work> queue_;      // guarded by mutex_, as all below
  uint64_t enqueued_ = 0;
  uint64_t done_ = 0;
  std::optional<Error> failure_;
  bool stopping_ = false;
  std::thread thread_;          // last: it starts when everything else is there
};

}  // namespace

std::unique_ptr<Stream> make_cpu_stream() { return std::make_unique<CpuStream>(); }

}  // namespace bp::rt
