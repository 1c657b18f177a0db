#include <zmq.h>

#include <algorithm>
#include <cerrno>

#include "engine/base/limits.h"
#include "engine/bus/context.h"

namespace bp::bus {
namespace {
// Liveness of connections; liveness of peers is told by the beats of our own protocols.
constexpr int kHeartbeatMs = 1'000;
constexpr int kHeartbeatTimeoutMs = 10'000;
constexpr int kReconnectFirstMs = 20;
constexpr int kReconnectMaxMs = 1'000;
constexpr int kHandshakeMs = 2'000;
}  // namespace

Socket::Socket(Context::Impl& context, int type)
    : context_(context), socket_(zmq_socket(context.zmq, type)) {
  if (socket_) ++context_.open_sockets;
}

Socket::~Socket() {
  if (!socket_) return;
  (void)set_int(ZMQ_LINGER, kCloseLingerMs);
  zmq_close(socket_);
  --context_.open_sockets;
}

Status Socket::set_int(int option, int value) {
  if (zmq_setsockopt(socket_, option, &value, sizeof value) != 0) {
    return zmq_error("socket option " + std::to_string(option));
  }
  return {};
}

Status Socket::set_text(int option, std::string_view value) {
  if (zmq_setsockopt(socket_, option, value.data(), value.size()) != 0) {
    return zmq_error("socket option " + std::to_string(option));
  }
  return {};
}

Status Socket::set_common(size_t max_message_bytes) {
  if (!socket_) return zmq_error("make a socket");
  const int64_t max_size = static_cast<int64_t>(max_message_bytes);
  if (zmq_setsockopt(socket_, ZMQ_MAXMSGSIZE, &max_size, sizeof max_size) != 0) {
    return zmq_error("limit the message size");
  }
  const std::pair<int, int> options[] = {
      {ZMQ_LINGER, 0},
      {ZMQ_SNDHWM, limits::kSocketHighWater},
      {ZMQ_RCVHWM, limits::kSocketHighWater},
      {ZMQ_HEARTBEAT_IVL, kHeartbeatMs},
      {ZMQ_HEARTBEAT_TIMEOUT, kHeartbeatTimeoutMs},
      {ZMQ_HEARTBEAT_TTL, kHeartbeatTimeoutMs},
      {ZMQ_HANDSHAKE_IVL, kHandshakeMs},
      {ZMQ_RECONNECT_IVL, kReconnectFirstMs},
      {ZMQ_RECONNECT_IVL_MAX, kReconnectMaxMs},
  };
  for (auto [option, value] : options) BP_TRY(set_int(option, value));
  return {};
}

Result<Parts> receive_parts(void* socket) {
  Parts parts;
  for (bool more = true; more; ++parts.count) {
    zmq_msg_t msg;
    zmq_msg_init(&msg);
    int rc;
    do {
      rc = zmq_msg_recv(&msg, socket, ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0) {
      zmq_msg_close(&msg);
      if (errno == EAGAIN) return Error{ErrorCode::kDeadlineExceeded, "no message", {}};
      return zmq_error("receive");
    }
    if (parts.count < 2) {
      auto& into = parts.count == 0 ? parts.first : parts.second;
      into.assign(static_cast<const char*>(zmq_msg_data(&msg)), zmq_msg_size(&msg));
    }
    if (const char* user = zmq_msg_gets(&msg, "User-Id")) parts.user = user;
    more = zmq_msg_more(&msg) != 0;
    zmq_msg_close(&msg);
  }
  return parts;
}

Status wait_readable(void* socket, Deadline deadline, std::string_view who) {
  for (;;) {
    zmq_pollitem_t item{socket, 0, ZMQ_POLLIN, 0};
    int n = zmq_poll(&item, 1, static_cast<long>(std::min<int64_t>(deadline.left_ms(), 1'000)));
    if (n > 0) return {};
    if (n < 0 && errno != EINTR) return zmq_error("poll");
    if (deadline.passed()) {
      return Error{ErrorCode::kDeadlineExceeded, "waited for a message on " + std::string(who), {}};
    }
  }
}

std::vector<size_t> wait_any(const std::vector<Router*>& routers,
                             const std::vector<Dealer*>& dealers, const std::vector<int>& fds,
                             Deadline deadline) {
  std::vector<zmq_pollitem_t> items;
  for (auto* r : routers) items.push_back({raw_socket(*r), 0, ZMQ_POLLIN, 0});
  for (auto* d : dealers) items.push_back({raw_socket(*d), 0, ZMQ_POLLIN, 0});
  for (int fd : fds) items.push_back({nullptr, fd, ZMQ_POLLIN, 0});
  std::vector<size_t> ready;
  do {
    int n = zmq_poll(items.data(), static_cast<int>(items.size()),
                     static_cast<long>(std::min<int64_t>(deadline.left_ms(), 60'000)));
    if (n < 0 && errno != EINTR) return ready;
    for (size_t i = 0; n > 0 && i < items.size(); ++i) {
      if (items[i].revents) ready.push_back(i);
    }
  } while (ready.empty() && !deadline.passed());
  return ready;
}

}  // namespace bp::bus
