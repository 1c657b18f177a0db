#include "engine/node/daemon_link.h"

#include <algorithm>
#include <utility>

#include "engine/base/clock.h"
#include "engine/base/files.h"
#include "engine/base/log.h"

namespace bp::node {

Result<DaemonAddress> read_daemon_file(const std::string& path) {
  BP_ASSIGN(std::string text, read_file(path, 4096));
  DaemonAddress out;
  const size_t line = text.find('\n');
  out.endpoint = text.substr(0, line);
  if (line != std::string::npos) {
    const size_t end = text.find('\n', line + 1);
    out.public_key = text.substr(line + 1, end == std::string::npos ? end : end - line - 1);
  }
  const bool tcp = out.endpoint.rfind("tcp://", 0) == 0;
  if ((!tcp && out.endpoint.rfind("ipc://", 0) != 0) || (tcp && out.public_key.size() != 40)) {
    return Error{ErrorCode::kCorruptData,
                 path +
                     " does not hold an endpoint (tcp:// or ipc://) and, below it, a public key of "
                     "40 characters",
                 {}};
  }
  return out;
}

DaemonLink::DaemonLink(std::string daemon_file, bus::KeyPair keys, bus::SocketThread& sockets,
                       std::function<void(std::string)> on_message)
    : daemon_file_(std::move(daemon_file)),
      keys_(std::move(keys)),
      sockets_(sockets),
      on_message_(std::move(on_message)),
      heard_ns_(monotonic_ns()) {}

DaemonLink::~DaemonLink() {
  if (socket_ >= 0) sockets_.close(socket_);
}

void DaemonLink::redial(const DaemonAddress& to) {
  if (socket_ >= 0) sockets_.close(socket_);
  socket_ = -1;
  dialled_ns_ = monotonic_ns();
  greeted_ = false;
  bus::DialOptions o;
  o.endpoint = to.endpoint;
  o.keys = keys_;
  o.server_public_key = to.public_key;
  auto dialled = sockets_.dial(std::move(o), on_message_);
  if (!dialled.ok()) {
    BP_LOG(warn, "daemon.dial_failed", "endpoint={} error=\"{}\"", to.endpoint,
           dialled.error().to_string());
    return;
  }
  if (!(address_ == to)) BP_LOG(info, "daemon.dial", "endpoint={}", to.endpoint);
  socket_ = *dialled;
  address_ = to;
}

bool DaemonLink::tick() {
  const int64_t now = monotonic_ns();
  const bool silent = now - heard_ns_ > kSilentMs * 1'000'000;
  if (socket_ < 0 || silent) {
    auto address = read_daemon_file(daemon_file_);
    if (!address.ok()) {
      if (!std::exchange(file_error_logged_, true)) {
        BP_LOG(warn, "daemon.unknown", "error=\"{}\"", address.error().to_string());
      }
    } else {
      file_error_logged_ = false;
      const bool stale = now - std::max(heard_ns_, dialled_ns_) > kRedialMs * 1'000'000;
      if (socket_ < 0 || !(*address == address_) || stale) redial(*address);
    }
  }
  const bool unanswered = heard_ns_ < std::exchange(ticked_ns_, now);
  return unanswered || !greeted_ || ++ticks_ % kGreetEveryTicks == 0;
}

void DaemonLink::heard() { heard_ns_ = monotonic_ns(); }

void DaemonLink::send(v1::NodeMessage message) {
  if (socket_ < 0) return;
  message.set_sequence(++sequence_);
  sockets_.send(socket_, {}, message.SerializeAsString());
}

}  // namespace bp::node
