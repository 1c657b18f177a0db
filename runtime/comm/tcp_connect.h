// Connecting ranks over TCP: of each pair the one with the higher global rank dials, both prove that they
// hold the epoch's data key, everybody else is refused and harms nobody (bounded number of half-open
// connections, each with a deadline of its own; the oldest gives way).
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/epoch.h"
#include "engine/base/fd.h"
#include "engine/base/result.h"
#include "engine/base/secret.h"
#include "runtime/comm/link.h"

namespace bp::rt {

/// A listening socket for the data connections of one rank.
class DataListener {
 public:
  /// Listens on a free port of `address` (an IPv4 or IPv6 address). kPortBusy, kInvalidArgument.
  static Result<DataListener> open(const std::string& address);
  const std::string& endpoint() const { return endpoint_; }  // "ADDRESS:PORT"
  int fd() const { return fd_.get(); }

 private:
  Fd fd_;
  std::string endpoint_;
};

struct PeerWanted {
  uint32_t rank = 0;        // global
  uint32_t purpose = 0;     // group; a pair may want one connection for each
  std::string endpoint;     // where it listens
  std::string label;        // for errors
};

struct ConnectOptions {
  uint32_t rank = 0;        // ours, global
  Epoch epoch;
  Secret data_key;          // 32 bytes
  std::vector<PeerWanted> peers;
  Deadline deadline = Deadline::in_ms(0);
  std::function<bool()> cancelled;   // looked at every few milliseconds; may be empty
};

/// One link per wanted peer, in their order. kDeadlineExceeded names who is missing and what was refused
/// last (wrong key, stale epoch, garbage); kInvalidArgument: an endpoint is not ADDRESS:PORT; kCancelled.
Result<std::vector<std::unique_ptr<Link>>> connect_peers(const DataListener& listener,
                                                         const ConnectOptions& options);

}  // namespace bp::rt
