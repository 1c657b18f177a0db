// Stream: an ordered queue of work on a device. Ops and communication are enqueued on it; deadlines apply
// to waiting for its events. The CPU stream is one thread.
#pragma once
#include <functional>
#include <memory>

#include "engine/base/clock.h"
#include "engine/base/result.h"

namespace bp::rt {

class Stream {
 public:
  using Work = std::function<Status()>;
  virtual ~Stream() = default;
  /// Runs `work` after everything enqueued before. After a failure the following work is dropped and
  /// every wait returns that error. Any thread.
  virtual void enqueue(Work work) = 0;
  using Event = uint64_t;
  /// Marks this place in the queue.
  virtual Event record() = 0;
  /// Until everything before `event` is done; kDeadlineExceeded, or the stream's error.
  virtual Status wait(Event event, Deadline deadline) = 0;
};

/// A queue with one thread. Destroyed, it waits for the work under way and drops the rest.
std::unique_ptr<Stream> make_cpu_stream();

}  // namespace bp::rt
