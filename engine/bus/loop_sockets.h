// LoopSockets: listening sockets that live on the caller's own thread, inside its event loop: no
// thread in between, so a message costs no hand-over and no wake-up but its own.
//
// The loop watches fd() of each socket for reading and calls read() when it is readable, and again
// as long as it returns kMore. libzmq signals a change of state only once, also to a send: after
// sending, call read() before the loop sleeps.
// Thread: the one that made it; nothing blocks.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "engine/bus/bus.h"

namespace bp::bus {

class LoopSockets {
 public:
  using SocketId = int;
  struct Handlers {
    std::function<void(const Peer&, std::string_view payload)> on_message;
    /// Routing id of a peer that a send did not find connected. May be empty.
    std::function<void(const std::string&)> on_unreachable;
  };
  struct Listening {
    SocketId id;
    std::string endpoint;
  };
  explicit LoopSockets(Context& context) : context_(context) {}
  ~LoopSockets();

  /// Errors as Router::bind.
  Result<Listening> listen(ListenOptions options, Handlers handlers);
  /// Valid as long as the socket; owned by libzmq: never to be closed or read.
  int fd(SocketId socket) const;

  enum class After { kIdle, kMore };
  /// Hands out messages that have arrived, until there are none or a budget is used up.
  After read(SocketId socket);
  /// What cannot be delivered is dropped and counted.
  void send(SocketId socket, const std::string& routing_id, std::string_view payload);

 private:
  struct Entry {
    std::unique_ptr<Router> router;
    Handlers handlers;
  };
  Context& context_;
  std::map<SocketId, Entry> entries_;
  SocketId next_ = 1;
  uint64_t dropped_ = 0;
};

}  // namespace bp::bus
