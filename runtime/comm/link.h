// Link: one ordered, reliable stream of bytes each way between two ranks. The mesh communicator builds
// every collective from links; it never blocks inside one, but waits for all of them together.
// Thread-confined (the stream's thread).
#pragma once
#include <poll.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "engine/base/clock.h"
#include "engine/base/result.h"

namespace bp::rt {

class Link {
 public:
  virtual ~Link() = default;
  /// Takes some bytes of `data` (0: full now). `more`: further bytes of the same message follow, so the
  /// link may wait with passing them on. kPeerLost, kProtocol.
  virtual Result<size_t> try_write(std::span<const std::byte> data, bool more) = 0;
  /// Passes on what try_write kept back; true when nothing is left.
  virtual Result<bool> try_flush() = 0;
  /// Gives up to data.size() bytes (0: none there now). kPeerLost at the end of the stream.
  virtual Result<size_t> try_read(std::span<std::byte> data) = 0;
  /// For poll(2); -1 where waiting goes through the doorbell (shared memory).
  virtual int poll_fd() const { return -1; }
  /// kPeerLost when the peer is known to be gone; asked only when a wait brought nothing.
  virtual Status check_peer() { return {}; }
};

/// How a rank sleeps until a shared-memory peer did something.
class Doorbell {
 public:
  virtual ~Doorbell() = default;
  /// Calls `ready` once after announcing that we sleep; when it says false sleeps until rung, `wait_ns`
  /// at most.
  virtual void wait(const std::function<bool()>& ready, int64_t wait_ns) = 0;
  /// Wakes this rank's own wait. Any thread.
  virtual void ring_self() = 0;
};

/// Memory in which every rank of a group lays down what it gives to a sum, and reads what the others laid down.
/// Two buffers a rank, used in turn: whoever writes the one of round n has seen all others in round n - 1, so
/// that nobody still reads what it held in round n - 2.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual size_t buffer_bytes() const = 0;
  virtual std::byte* mine(uint64_t round) = 0;
  /// Lets the others read `size_bytes` of mine(round), and wakes who sleeps.
  virtual void publish(uint64_t round, uint64_t size_bytes) = 0;
  /// Moves the calling thread to another core when `rank`, for which it waits, sits on the same one.
  virtual void part_from(uint32_t rank) = 0;
  /// What `rank` laid down in `round`; null: not yet. `size_bytes` gets its size.
  virtual const std::byte* of(uint32_t rank, uint64_t round, uint64_t* size_bytes) = 0;
};

}  // namespace bp::rt
