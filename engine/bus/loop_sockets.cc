#include "engine/bus/loop_sockets.h"

#include <zmq.h>

#include "engine/base/log.h"
#include "engine/bus/context.h"

namespace bp::bus {
namespace {
constexpr int kMessagesPerTurn = 256;
constexpr size_t kBytesPerTurn = 4 << 20;
}  // namespace

LoopSockets::~LoopSockets() = default;

Result<LoopSockets::Listening> LoopSockets::listen(ListenOptions options, Handlers handlers) {
  Entry entry;
  BP_ASSIGN(entry.router, Router::bind(context_, std::move(options)));
  entry.handlers = std::move(handlers);
  std::string endpoint = entry.router->endpoint();
  entries_.emplace(next_, std::move(entry));
  return Listening{next_++, std::move(endpoint)};
}

int LoopSockets::fd(SocketId socket) const {
  int fd = -1;
  size_t size = sizeof fd;
  auto it = entries_.find(socket);
  BP_CHECK(it != entries_.end());
  BP_CHECK(zmq_getsockopt(raw_socket(*it->second.router), ZMQ_FD, &fd, &size) == 0);
  return fd;
}

LoopSockets::After LoopSockets::read(SocketId socket) {
  auto it = entries_.find(socket);
  if (it == entries_.end()) return After::kIdle;
  Entry& entry = it->second;
  size_t bytes = 0;
  for (int i = 0; i < kMessagesPerTurn && bytes < kBytesPerTurn; ++i) {
    // An empty-handed receive has looked at everything that was signalled.
    auto got = entry.router->try_recv();
    if (!got.ok()) return After::kIdle;
    bytes += got->payload.size();
    entry.handlers.on_message(got->peer, got->payload);
  }
  return After::kMore;
}

void LoopSockets::send(SocketId socket, const std::string& routing_id, std::string_view payload) {
  auto it = entries_.find(socket);
  if (it == entries_.end()) return;
  Status sent = it->second.router->send(routing_id, payload);
  if (sent.ok()) return;
  if (dropped_++ % 1000 == 0)
    BP_LOG(debug, "message.dropped", "reason={} total={}", sent.error().message, dropped_);
  if (sent.error().code == ErrorCode::kPeerLost && it->second.handlers.on_unreachable)
    it->second.handlers.on_unreachable(routing_id);
}

}  // namespace bp::bus
