// Communicator: how ranks of one group exchange data. Implementations: shared memory within a host, TCP
// between hosts (NCCL between GPUs later). One conformance suite covers all.
// Calls are made on the stream's thread in the same order on every rank of the group; each has a deadline.
// Errors: kDeadlineExceeded and kPeerLost name operation, sequence number, and the rank waited for;
// kStaleEpoch after abort(). After any error the communicator is dead: only abort() and destruction remain.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/epoch.h"
#include "engine/base/result.h"

namespace bp::rt {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual uint32_t rank() const = 0;   // within the group
  virtual uint32_t size() const = 0;
  virtual Epoch epoch() const = 0;

  /// Element-wise sum of fixed-point values; integer addition is associative, so every rank gets the
  /// same bits whatever the order. In place. data: [n]
  virtual Status all_reduce_i64(std::span<int64_t> data, Deadline deadline) = 0;
  /// Rank r contributes counts[r] bytes; everybody gets all, in rank order. out: [sum(counts)]
  virtual Status all_gather_v(std::span<const std::byte> mine, std::span<const size_t> counts,
                              std::span<std::byte> out, Deadline deadline) = 0;
  virtual Status broadcast(std::span<std::byte> data, uint32_t root, Deadline deadline) = 0;
  /// Point to point, in order per pair; sizes must agree on both sides.
  virtual Status send(std::span<const std::byte> data, uint32_t to, Deadline deadline) = 0;
  virtual Status recv(std::span<std::byte> data, uint32_t from, Deadline deadline) = 0;
  virtual Status barrier(Deadline deadline) = 0;
  /// From any thread: every call under way or later returns kStaleEpoch at once.
  virtual void abort() = 0;
  virtual std::string describe() const = 0;   // "shm 2 ranks", "tcp 2 ranks, encrypted"
};

/// A group of one: every collective is the identity; send/recv are programmer errors.
std::unique_ptr<Communicator> make_solo_communicator(Epoch epoch);

}  // namespace bp::rt
