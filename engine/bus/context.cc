#include "engine/bus/context.h"

#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include <cerrno>
#include <vector>

#include "engine/base/log.h"

namespace bp::bus {
namespace {
constexpr const char* kZapEndpoint = "inproc://zeromq.zap.01";

std::vector<std::string> receive_all(void* socket) {
  std::vector<std::string> parts;
  for (int more = 1; more;) {
    zmq_msg_t msg;
    zmq_msg_init(&msg);
    if (zmq_msg_recv(&msg, socket, ZMQ_DONTWAIT) < 0) {
      zmq_msg_close(&msg);
      return {};
    }
    parts.emplace_back(static_cast<const char*>(zmq_msg_data(&msg)), zmq_msg_size(&msg));
    more = zmq_msg_more(&msg);
    zmq_msg_close(&msg);
  }
  return parts;
}
}  // namespace

Context::Context(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Context::~Context() = default;

Result<std::unique_ptr<Context>> Context::start() {
  auto impl = std::make_unique<Impl>();
  BP_TRY(impl->start());
  return std::unique_ptr<Context>(new Context(std::move(impl)));
}

Status Context::Impl::start() {
  zmq = zmq_ctx_new();
  if (!zmq) return zmq_error("zmq_ctx_new");
  // The handler is bound before any other socket exists: no handshake can slip past it.
  zap_socket_ = zmq_socket(zmq, ZMQ_REP);
  int linger = 0;
  if (!zap_socket_ || zmq_setsockopt(zap_socket_, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
      zmq_bind(zap_socket_, kZapEndpoint) != 0) {
    return zmq_error("start the ZAP handler");
  }
  stop_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_) return errno_error("eventfd", errno);
  zap_thread_ = std::thread([this] { serve_zap(); });
  return {};
}

Context::Impl::~Impl() {
  BP_CHECK(open_sockets == 0);
  if (zap_thread_.joinable()) {
    uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    zap_thread_.join();
  }
  if (zap_socket_) zmq_close(zap_socket_);
  if (zmq) zmq_ctx_term(zmq);
}

std::string Context::Impl::add_domain(Domain domain) {
  std::lock_guard lock(mutex_);
  std::string name = "bp-" + std::to_string(next_domain_++);
  domains_.emplace(name, std::move(domain));
  return name;
}

void Context::Impl::remove_domain(const std::string& name) {
  std::lock_guard lock(mutex_);
  domains_.erase(name);
}

void Context::Impl::serve_zap() {
  for (;;) {
    zmq_pollitem_t items[2] = {{zap_socket_, 0, ZMQ_POLLIN, 0},
                               {nullptr, stop_.get(), ZMQ_POLLIN, 0}};
    if (zmq_poll(items, 2, -1) < 0 && errno == ETERM) return;
    if (items[1].revents) return;
    if (items[0].revents) answer_zap();
  }
}

// RFC 27: version, request id, domain, address, routing id, mechanism, credentials...
void Context::Impl::answer_zap() {
  auto parts = receive_all(zap_socket_);
  if (parts.empty()) return;
  std::string user, request_id = parts.size() > 1 ? parts[1] : "";
  if (parts.size() >= 6 && parts[0] == "1.0") {
    user = user_of(parts[2], parts[3], parts[5], parts.size() == 7 ? parts[6] : "");
  }
  if (user.empty()) {
    BP_LOG(debug, "peer.refused", "domain={} address={}", parts.size() > 3 ? parts[2] : "",
           parts.size() > 3 ? parts[3] : "");
  }
  // 300 and not 400: libzmq's client would never dial again after a 400, though its key may be
  // registered in a moment.
  const std::string reply[6] = {
      "1.0", request_id, user.empty() ? "300" : "200", user.empty() ? "not authorized" : "OK",
      user,  ""};
  for (int i = 0; i < 6; ++i) {
    zmq_send(zap_socket_, reply[i].data(), reply[i].size(), i < 5 ? ZMQ_SNDMORE : 0);
  }
}

std::string Context::Impl::user_of(const std::string& domain, const std::string& address,
                                   const std::string& mechanism, const std::string& credentials) {
  Domain d;
  {
    std::lock_guard lock(mutex_);
    auto it = domains_.find(domain);
    if (it == domains_.end()) return {};
    d = it->second;
  }
  if (d.ipc) {
    // libzmq appends ":uid:gid:pid" of SO_PEERCRED to the address of a local peer.
    size_t pid_at = address.rfind(':');
    size_t gid_at =
        pid_at == std::string::npos || pid_at == 0 ? pid_at : address.rfind(':', pid_at - 1);
    size_t uid_at = gid_at == std::string::npos || gid_at == 0 ? std::string::npos
                                                               : address.rfind(':', gid_at - 1);
    if (mechanism != "NULL" || uid_at == std::string::npos) return {};
    std::string uid = address.substr(uid_at + 1, gid_at - uid_at - 1);
    return uid == std::to_string(::getuid()) ? "uid:" + uid : std::string{};
  }
  if (mechanism != "CURVE" || credentials.size() != 32) return {};
  char z85[41];
  zmq_z85_encode(z85, reinterpret_cast<const uint8_t*>(credentials.data()), credentials.size());
  return d.authorize(std::string_view(z85, 40));
}

Error zmq_error(std::string_view what) {
  const int e = zmq_errno();
  if (e == EADDRINUSE) return Error{ErrorCode::kPortBusy, std::string(what) + ": in use", {}};
  if (e < ZMQ_HAUSNUMERO) return errno_error(what, e);
  return Error{ErrorCode::kInternal, std::string(what) + ": " + zmq_strerror(e), {}};
}

}  // namespace bp::bus
