// StepChannel: step commands (head -> rank) and what comes of them (rank -> head) between two processes of
// one host: a ring of bytes each way in a memfd that the rank makes, a futex for the rank's sleep and a pipe
// for the head's, which waits for sockets too. The head opens both through /proc/PID/fd, so no socket and no
// handshake is needed; a random number in the memory, told over the encrypted control connection, proves that
// it is the memory meant. A new generation of the group gets a new channel: nothing old can arrive in it.
//
// Messages are opaque bytes in order. Each end is used by one thread; interrupt() by any.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "engine/base/process.h"
#include "engine/base/result.h"
#include "runtime/comm/spin.h"

namespace bp::rt {

/// Of each direction. A step of 32,768 tokens takes some 100 KB.
inline constexpr size_t kStepRingBytes = 1 << 20;
inline constexpr size_t kStepNonceBytes = 16;

struct StepMemory;   // the layout, in step_channel.cc

class RankStepEnd {
 public:
  /// kIo when there is no memory or descriptor left.
  static Result<std::unique_ptr<RankStepEnd>> make(SpinPolicy spin);
  ~RankStepEnd();
  RankStepEnd(const RankStepEnd&) = delete;

  // What the head needs to open the other end.
  int memory_fd() const { return memory_.get(); }
  int bell_fd() const { return bell_read_.get(); }
  const std::string& nonce() const { return nonce_; }

  /// The next message; false when the deadline passed or interrupt() was called. kProtocol: the ring is broken.
  Result<bool> receive(std::string* message, Deadline deadline);
  /// kUnavailable: the head takes nothing (the ring is full); kTooLarge.
  Status send(std::string_view message);
  /// Every receive() under way or later returns false at once. Any thread.
  void interrupt();

 private:
  RankStepEnd() = default;
  Fd memory_, bell_read_, bell_write_;
  std::string nonce_;
  StepMemory* shared_ = nullptr;
  SpinPolicy spin_;
  std::atomic<bool> interrupted_{false};
};

class HeadStepEnd {
 public:
  /// Opens the channel that `rank` made. kNotFound: the process or its descriptors cannot be reached from
  /// here; kCorruptData: it is not such memory, or not the one that `nonce` names.
  static Result<std::unique_ptr<HeadStepEnd>> open(const ProcessId& rank, int memory_fd, int bell_fd,
                                                   std::string_view nonce);
  ~HeadStepEnd();
  HeadStepEnd(const HeadStepEnd&) = delete;

  /// kUnavailable: the rank takes nothing (the ring is full); kTooLarge; kProtocol: the ring is broken.
  Status send(std::string_view message);
  /// False when nothing is there. kProtocol: the ring is broken.
  Result<bool> try_receive(std::string* message);
  /// Readable after the rank sent something while armed. arm() before a wait, then look once more; disarm()
  /// after it.
  int bell_fd() const { return bell_.get(); }
  void arm();
  void disarm();

 private:
  HeadStepEnd() = default;
  Fd bell_;
  StepMemory* shared_ = nullptr;
};

}  // namespace bp::rt
