// Sockets of bp-daemon: the only room that knows ZeroMQ.
// Router and Dealer are thread-confined and block with a deadline; SocketThread runs them on a
// thread of its own and hands messages to the caller's executor.
//
// Rules kept here: every tcp:// socket has CURVE and a ZAP domain (enforced); ipc sockets accept
// only peers with this process's uid; MAXMSGSIZE, high-water marks, LINGER 0, handshake limit are
// set; a peer's role comes from its key, never from its routing id or payload.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/result.h"
#include "engine/base/secret.h"

namespace bp::bus {

/// First thing in main(): what the Protocol Buffers library has to say about malformed bytes goes to the log at
/// level debug, not to standard error; whoever parses reports the fault itself.
void quiet_protobuf();

/// A CURVE key pair in Z85 text (40 characters each).
struct KeyPair {
  std::string public_key;
  Secret secret_key;
};
KeyPair make_key_pair();
/// Reads `path` (mode must be 0600 or stricter, else kPermission) or makes and writes a new pair
/// there.
Result<KeyPair> load_or_make_key_pair(const std::string& path);

/// Who a message came from. `user` is what the authorizer returned for the peer's key ("node:n-1",
/// "rank", ...), or "uid:1000" on ipc. `routing_id` addresses replies.
struct Peer {
  std::string routing_id;
  std::string user;
};

/// Maps a client's public key (Z85) to a user name; an empty one refuses it. Any thread; must not
/// block.
using Authorizer = std::function<std::string(std::string_view public_key)>;

struct ListenOptions {
  std::string endpoint;          // "ipc:///path" or "tcp://127.0.0.1:0" (port 0: any free one)
  KeyPair keys;                  // tcp only: this server's pair
  Authorizer authorize;          // tcp only; required there
  size_t max_message_bytes = 0;  // 0: limits::kMessageBytes
  /// A newcomer takes over the routing id of an older connection (a restarted peer). Off where
  /// peers of different trust meet on one socket and let it pick their ids: none can then steal
  /// another's replies.
  bool handover = true;
};
struct DialOptions {
  std::string endpoint;
  std::string routing_id;         // empty: the socket picks one
  KeyPair keys;                   // tcp only: the client's pair
  std::string server_public_key;  // tcp only
  size_t max_message_bytes = 0;
  /// Nothing is queued while there is no connection: send() then says kUnavailable. For peers that
  /// repeat what counts and would rather know.
  bool only_connected = false;
};

/// One per process; sockets must not outlive it. Runs the ZAP handler on a thread of its own.
class Context {
 public:
  static Result<std::unique_ptr<Context>> start();
  ~Context();
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  explicit Context(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

struct Incoming {
  Peer peer;
  std::string payload;
};

/// ROUTER. Thread-confined. Errors: kPortBusy, kPermission on bind; kDeadlineExceeded on recv;
/// kPeerLost when sending to a peer that is not connected (ROUTER_MANDATORY); kUnavailable when the
/// peer's queue is full; kTooLarge above max_message_bytes. A peer that its authorizer refuses is
/// disconnected and may dial again: a key that is registered later is then let in.
class Router {
 public:
  static Result<std::unique_ptr<Router>> bind(Context& context, ListenOptions options);
  ~Router();
  /// The endpoint in use, with the real port.
  const std::string& endpoint() const;
  Status send(std::string_view routing_id, std::string_view payload);
  Result<Incoming> recv(Deadline deadline);
  /// Same without waiting; nullopt-like kDeadlineExceeded when nothing is there.
  Result<Incoming> try_recv();
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  explicit Router(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// DEALER. Thread-confined. Reconnects by itself (20 ms growing to 1 s).
class Dealer {
 public:
  static Result<std::unique_ptr<Dealer>> dial(Context& context, DialOptions options);
  ~Dealer();
  Status send(std::string_view payload);
  Result<std::string> recv(Deadline deadline);
  Result<std::string> try_recv();
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  explicit Dealer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Waits until one of the sockets or descriptors is readable. Returns indexes: routers first, then
/// dealers, then fds. Empty when the deadline passed.
std::vector<size_t> wait_any(const std::vector<Router*>& routers,
                             const std::vector<Dealer*>& dealers, const std::vector<int>& fds,
                             Deadline deadline);

/// Runs sockets on one thread; messages arrive through `post` on the caller's executor, in order
/// per socket. send() may be called from any thread and does not block; what cannot be delivered is
/// dropped (delivery is never the source of truth).
class SocketThread {
 public:
  using Post = std::function<void(std::function<void()>)>;
  static Result<std::unique_ptr<SocketThread>> start(Context& context, Post post);
  ~SocketThread();  // closes all sockets, joins the thread
  using SocketId = int;
  struct Listening {
    SocketId id;
    std::string endpoint;
  };
  /// `on_unreachable` (may be empty) gets the routing id of a peer that a send did not find
  /// connected.
  Result<Listening> listen(ListenOptions options, std::function<void(Incoming)> on_message,
                           std::function<void(std::string)> on_unreachable = {});
  Result<SocketId> dial(DialOptions options, std::function<void(std::string)> on_message);
  /// `routing_id` is ignored for a dialled socket.
  void send(SocketId socket, std::string routing_id, std::string payload);
  void close(SocketId socket);

 private:
  struct Impl;
  explicit SocketThread(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Parses a protobuf message of at most limits::kMessageBytes; kProtocol names what was expected.
template <class Message>
Result<Message> parse(std::string_view payload) {
  Message m;
  if (!m.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return Error{ErrorCode::kProtocol,
                 std::to_string(payload.size()) + " bytes are not a valid " +
                     std::string(m.GetDescriptor()->full_name()),
                 {}};
  }
  return m;
}

}  // namespace bp::bus
