// Client: one connection to bp-daemon, over which requests get one reply or a stream of them.
// Thread-confined; every wait has a deadline and ends at once when the daemon's process ends.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "bp/v1/control.pb.h"
#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "engine/base/result.h"
#include "engine/bus/bus.h"

namespace bp::cli {

inline constexpr uint32_t kControlProtocol = 1;

class Client {
 public:
  /// `endpoint` is ipc://PATH. kNoDaemon: nobody listens there, or none answers by the deadline;
  /// kPermission: the socket belongs to somebody else; kProtocol: the daemon speaks another
  /// version.
  static Result<std::unique_ptr<Client>> connect(const std::string& endpoint, Deadline deadline);

  /// What the daemon said of itself when this connection was made.
  const v1::Pong& daemon() const { return daemon_; }

  /// Sends a request and waits for its reply, whose `error` may be set. kPeerLost: the daemon
  /// ended; kDeadlineExceeded.
  Result<v1::ClientReply> ask(v1::ClientRequest request, Deadline deadline);

  /// Hands each reply to `on_reply` until the final one, or until that returns false. Errors as
  /// ask.
  using OnReply = std::function<bool(const v1::ClientReply&)>;
  Status stream(v1::ClientRequest request, const OnReply& on_reply, Deadline deadline);

 private:
  Client() = default;
  Result<v1::ClientReply> next_reply(uint64_t request_id, Deadline deadline);

  std::unique_ptr<bus::Context> context_;
  std::unique_ptr<bus::Dealer> dealer_;
  v1::Pong daemon_;
  Fd daemon_pidfd_;  // absent when the daemon belongs to another user's process namespace
  uint64_t last_request_ = 0;
};

/// The error that a reply carries: its code by name, its message and remedy.
Error error_of(const v1::ErrorInfo& info);

}  // namespace bp::cli
