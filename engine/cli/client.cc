#include "engine/cli/client.h"

#include <algorithm>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "engine/base/process.h"

namespace bp::cli {
namespace {

constexpr int64_t kAskAgainMs = 2'000;

/// Changes nothing, so it may be said again: a daemon that is replaced takes what it had not read along.
bool only_asks(const v1::ClientRequest& request) {
  switch (request.what_case()) {
    case v1::ClientRequest::kPlan:
    case v1::ClientRequest::kList:
    case v1::ClientRequest::kShow:
    case v1::ClientRequest::kAccess:
    case v1::ClientRequest::kQuery:
    case v1::ClientRequest::kListWorkflows:
    case v1::ClientRequest::kListLimits:
    case v1::ClientRequest::kListSchedules:
    case v1::ClientRequest::kListPlugins:
    case v1::ClientRequest::kMetrics:
      return true;
    default:
      return false;
  }
}

constexpr int64_t kPingMs = 1'000;  // a daemon that runs answers in less
constexpr int64_t kSliceMs =
    1'000;  // how long one wait lasts before the deadline is looked at again

/// Whether somebody accepts connections on the socket: ZeroMQ itself would wait for it silently.
Status probe(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("socket {}: its path has {} bytes, expected less than {}", path,
                             path.size(), sizeof address.sun_path),
                 "Give a shorter --run-dir"};
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno_error("socket", errno);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return {};
  if (errno == EAGAIN) return {};  // its queue is full: somebody is there
  if (errno == EACCES || errno == EPERM) return errno_error("connect " + path, errno);
  return Error{ErrorCode::kNoDaemon, fmt::format("no daemon listens on {}", path), {}};
}

}  // namespace

Error error_of(const v1::ErrorInfo& info) {
  return Error{error_code_from_name(info.code()), info.message(), info.remedy()};
}

Result<std::unique_ptr<Client>> Client::connect(const std::string& endpoint, Deadline deadline) {
  if (endpoint.rfind("ipc://", 0) != 0) {
    return Error{ErrorCode::kInvalidArgument, "endpoint " + endpoint + ": expected ipc://PATH", {}};
  }
  BP_TRY(probe(endpoint.substr(6)));
  std::unique_ptr<Client> c(new Client());
  BP_ASSIGN(c->context_, bus::Context::start());
  bus::DialOptions options;
  options.endpoint = endpoint;
  BP_ASSIGN(c->dealer_, bus::Dealer::dial(*c->context_, options));
  v1::ClientRequest ping;
  ping.mutable_ping();
  // Said again: a daemon that was just being replaced took the first one along.
  auto reply = c->ask(ping, Deadline::in_ms(std::min(deadline.left_ms(), kPingMs)));
  while (!reply.ok() && reply.error().code == ErrorCode::kDeadlineExceeded && !deadline.passed()) {
    reply = c->ask(ping, Deadline::in_ms(std::min(deadline.left_ms(), kPingMs)));
  }
  if (!reply.ok()) {
    if (reply.error().code != ErrorCode::kDeadlineExceeded) return std::move(reply).error();
    return Error{ErrorCode::kNoDaemon, "the daemon behind " + endpoint + " does not answer", {}};
  }
  if (reply->has_error()) return error_of(reply->error());
  c->daemon_ = reply->pong();
  if (c->daemon_.protocol() != kControlProtocol) {
    return Error{ErrorCode::kProtocol,
                 fmt::format("the daemon speaks protocol {}, this bp {}", c->daemon_.protocol(),
                             kControlProtocol),
                 {}};
  }
  const auto& id = c->daemon_.daemon();
  auto watch = process_watch(ProcessId{id.pid(), id.start_ticks(), id.boot_id()});
  if (watch.ok()) c->daemon_pidfd_ = std::move(watch).value();
  return c;
}

Result<v1::ClientReply> Client::next_reply(uint64_t request_id, Deadline deadline) {
  for (;;) {
    auto message = dealer_->try_recv();
    if (message.ok()) {
      BP_ASSIGN(v1::ClientReply reply, bus::parse<v1::ClientReply>(*message));
      if (reply.request_id() == request_id) return reply;
      continue;  // of an earlier request that was given up
    }
    if (message.error().code != ErrorCode::kDeadlineExceeded) return std::move(message).error();
    if (deadline.passed()) {
      return Error{ErrorCode::kDeadlineExceeded, "waited for an answer of the daemon", {}};
    }
    std::vector<int> fds;
    if (daemon_pidfd_) fds.push_back(daemon_pidfd_.get());
    const Deadline slice = Deadline::in_ms(std::min(kSliceMs, deadline.left_ms()));
    const std::vector<size_t> ready = bus::wait_any({}, {dealer_.get()}, fds, slice);
    const bool has_message = !ready.empty() && ready.front() == 0;
    const bool daemon_gone = !ready.empty() && ready.back() == 1;
    if (daemon_gone && !has_message) {
      return Error{ErrorCode::kPeerLost,
                   fmt::format("the daemon (pid {}) ended", daemon_.daemon().pid()),
                   {}};
    }
  }
}

Result<v1::ClientReply> Client::ask(v1::ClientRequest request, Deadline deadline) {
  request.set_request_id(++last_request_);
  request.set_protocol(kControlProtocol);
  const std::string bytes = request.SerializeAsString();
  for (;;) {
    BP_TRY(dealer_->send(bytes));
    const int64_t left_ms = deadline.left_ms();
    const bool again = only_asks(request) && left_ms > kAskAgainMs;
    auto reply = next_reply(request.request_id(), again ? Deadline::in_ms(kAskAgainMs) : deadline);
    if (reply.ok() || !again || reply.error().code != ErrorCode::kDeadlineExceeded) return reply;
  }
}

Status Client::stream(v1::ClientRequest request, const OnReply& on_reply, Deadline deadline) {
  request.set_request_id(++last_request_);
  request.set_protocol(kControlProtocol);
  BP_TRY(dealer_->send(request.SerializeAsString()));
  for (;;) {
    BP_ASSIGN(const v1::ClientReply reply, next_reply(request.request_id(), deadline));
    if (reply.has_error()) return error_of(reply.error());
    if (!on_reply(reply) || reply.final()) return {};
  }
}

}  // namespace bp::cli
