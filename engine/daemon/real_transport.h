// The daemon's three listening sockets: clients and stage hosts over ipc, nodes over loopback TCP
// with CURVE. They live on the executor's thread: what arrives is handed on without a hand-over.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "engine/bus/bus.h"
#include "engine/bus/loop_sockets.h"
#include "engine/shell/world.h"

namespace boost::asio {
class io_context;
}

namespace bp::daemon {

struct TransportOptions {
  std::string client_endpoint, stage_endpoint;
  std::string
      node_endpoint_file;  // two lines: endpoint, public key; the port is kept over restarts
  bus::KeyPair keys;
};

class RealTransport final : public shell::Transport {
 public:
  RealTransport(boost::asio::io_context& io, TransportOptions options);
  ~RealTransport() override;
  using OnMessage = std::function<void(shell::Channel, const bus::Peer&, std::string_view)>;
  using OnUnreachable = std::function<void(shell::Channel, const std::string& routing_id)>;

  /// Chooses the nodes' endpoint (the one on file while it is free) and opens that socket and the
  /// stages'.
  Status open(OnMessage on_message, OnUnreachable on_unreachable);
  /// The clients' socket comes last: who reaches it finds a daemon that has recovered.
  Status open_clients();
  const std::string& node_endpoint() const { return node_endpoint_; }

  void send(shell::Channel channel, const std::string& routing_id,
            std::string_view payload) override;
  void allow_node(const std::string& public_key, const std::string& user) override;
  void forbid_node(const std::string& public_key) override;

 private:
  Status listen(shell::Channel channel, bus::ListenOptions options, std::string* endpoint);
  Status listen_nodes();
  void watch(shell::Channel channel);
  void read(shell::Channel channel);
  void read_after_sending(shell::Channel channel);

  /// Read by the ZAP thread.
  struct Keys {
    std::mutex mutex;
    std::map<std::string, std::string, std::less<>> users;
  };
  /// One open socket.
  struct Open;
  boost::asio::io_context& io_;
  TransportOptions options_;
  OnMessage on_message_;
  OnUnreachable on_unreachable_;
  std::shared_ptr<Keys> keys_ = std::make_shared<Keys>();
  std::unique_ptr<bus::Context> context_;
  std::unique_ptr<bus::LoopSockets> sockets_;
  std::map<shell::Channel, std::unique_ptr<Open>> open_;
  std::string node_endpoint_;
};

}  // namespace bp::daemon
