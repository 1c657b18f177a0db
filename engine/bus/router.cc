#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include <cerrno>
#include <cstring>

#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/bus/context.h"
#include "engine/bus/listening.h"

namespace bp::bus {
namespace {
constexpr std::string_view kIpc = "ipc://";
constexpr std::string_view kTcp = "tcp://";
// ZMQ_ZAP_ENFORCE_DOMAIN: libzmq 4.3 has it, but its header shows it to draft builds only.
constexpr int kZapEnforceDomain = 93;

// A socket file of a dead process is removed (libzmq would remove a living one's, too).
Status clear_stale_socket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Error{ErrorCode::kInvalidArgument,
                 "socket path " + path + " has " + std::to_string(path.size()) +
                     " bytes; expected 1 to " + std::to_string(sizeof address.sun_path - 1),
                 "Choose a shorter --run-dir"};
  }
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) return {};
  if (!S_ISSOCK(st.st_mode)) {
    return Error{ErrorCode::kPortBusy, path + " exists and is not a socket", {}};
  }
  std::memcpy(address.sun_path, path.c_str(), path.size());
  Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return errno_error("socket", errno);
  const int rc = ::connect(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  if (rc == 0 || errno == EAGAIN || errno == EINPROGRESS) {
    return Error{ErrorCode::kPortBusy, "another process listens on " + path, {}};
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_error("unlink " + path, errno);
  return {};
}
}  // namespace

struct Router::Impl {
  Impl(Context::Impl& c, ListenOptions o)
      : context(c), options(std::move(o)), socket(std::make_unique<Socket>(c, ZMQ_ROUTER)) {}
  ~Impl() {
    socket.reset();
    if (!domain.empty()) context.remove_domain(domain);
  }
  Status bind();
  Status bind_ipc();
  Status bind_tcp();

  Context::Impl& context;
  ListenOptions options;
  std::unique_ptr<Socket> socket;
  bool inherited = false;
  std::string domain;
  std::string endpoint;
  uint64_t malformed = 0;
};

Status Router::Impl::bind() {
  if (options.max_message_bytes == 0) options.max_message_bytes = limits::kMessageBytes;
  BP_TRY(socket->set_common(options.max_message_bytes));
  BP_TRY(socket->set_int(ZMQ_ROUTER_MANDATORY, 1));
  BP_TRY(socket->set_int(ZMQ_ROUTER_HANDOVER, options.handover ? 1 : 0));
  const bool ipc = options.endpoint.starts_with(kIpc);
  if (!ipc && !options.endpoint.starts_with(kTcp)) {
    return Error{ErrorCode::kInvalidArgument,
                 "endpoint " + options.endpoint + "; expected ipc://PATH or tcp://ADDRESS:PORT",
                 {}};
  }
  // One that was handed to this process, or kept over an exec; libzmq closes it, and leaves its file alone.
  if (Fd given = take_descriptor(options.endpoint)) {
    BP_TRY(socket->set_int(ZMQ_USE_FD, given.get()));
    (void)given.release();
    inherited = true;
  }
  domain = context.add_domain(Domain{ipc, options.authorize});
  BP_TRY(socket->set_text(ZMQ_ZAP_DOMAIN, domain));
  BP_TRY(socket->set_int(kZapEnforceDomain, 1));
  return ipc ? bind_ipc() : bind_tcp();
}

Status Router::Impl::bind_ipc() {
  const std::string path = options.endpoint.substr(kIpc.size());
  if (!inherited) BP_TRY(clear_stale_socket(path));
  if (zmq_bind(socket->get(), options.endpoint.c_str()) != 0)
    return zmq_error("bind " + options.endpoint);
  if (::chmod(path.c_str(), 0600) != 0) return errno_error("chmod " + path, errno);
  endpoint = options.endpoint;
  return {};
}

Status Router::Impl::bind_tcp() {
  BP_CHECK(options.authorize != nullptr);
  BP_TRY(socket->set_int(ZMQ_CURVE_SERVER, 1));
  BP_TRY(socket->set_text(ZMQ_CURVE_SECRETKEY, options.keys.secret_key.reveal()));
  if (zmq_bind(socket->get(), options.endpoint.c_str()) != 0)
    return zmq_error("bind " + options.endpoint);
  char text[256];
  size_t size = sizeof text;
  if (zmq_getsockopt(socket->get(), ZMQ_LAST_ENDPOINT, text, &size) != 0)
    return zmq_error("endpoint");
  endpoint = text;
  return {};
}

Router::Router(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Router::~Router() = default;

Result<std::unique_ptr<Router>> Router::bind(Context& context, ListenOptions options) {
  auto impl = std::make_unique<Impl>(context.impl(), std::move(options));
  BP_TRY(impl->bind());
  return std::unique_ptr<Router>(new Router(std::move(impl)));
}

const std::string& Router::endpoint() const { return impl_->endpoint; }

Status Router::send(std::string_view routing_id, std::string_view payload) {
  if (payload.size() > impl_->options.max_message_bytes) {
    return Error{ErrorCode::kTooLarge,
                 "message of " + std::to_string(payload.size()) + " bytes on " + impl_->endpoint +
                     "; at most " + std::to_string(impl_->options.max_message_bytes),
                 {}};
  }
  void* s = impl_->socket->get();
  if (zmq_send(s, routing_id.data(), routing_id.size(), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
    if (errno == EHOSTUNREACH) {
      return Error{ErrorCode::kPeerLost, "peer is not connected to " + impl_->endpoint, {}};
    }
    if (errno == EAGAIN) {
      return Error{ErrorCode::kUnavailable, "a peer's queue is full on " + impl_->endpoint, {}};
    }
    return zmq_error("send on " + impl_->endpoint);
  }
  if (zmq_send(s, payload.data(), payload.size(), ZMQ_DONTWAIT) < 0) {
    return zmq_error("send on " + impl_->endpoint);
  }
  return {};
}

Result<Incoming> Router::try_recv() {
  for (;;) {
    BP_ASSIGN(auto parts, receive_parts(impl_->socket->get()));
    if (parts.count == 2 && !parts.user.empty()) {
      return Incoming{Peer{std::move(parts.first), std::move(parts.user)}, std::move(parts.second)};
    }
    if (impl_->malformed++ % 1000 == 0) {
      BP_LOG(debug, "message.malformed", "endpoint={} frames={} expected=2 user={}",
             impl_->endpoint, parts.count, parts.user);
    }
  }
}

Result<Incoming> Router::recv(Deadline deadline) {
  for (;;) {
    auto got = try_recv();
    if (got.ok() || got.error().code != ErrorCode::kDeadlineExceeded) return got;
    BP_TRY(wait_readable(impl_->socket->get(), deadline, impl_->endpoint));
  }
}

void* raw_socket(Router& router) { return router.impl().socket->get(); }

}  // namespace bp::bus
