#include "engine/daemon/real_transport.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>

#include "engine/base/files.h"
#include "engine/base/log.h"

namespace bp::daemon {

struct RealTransport::Open {
  Open(boost::asio::io_context& io, bus::LoopSockets::SocketId i, int fd) : id(i), watched(io, fd) {}
  ~Open() { watched.release(); }  // libzmq closes it
  bus::LoopSockets::SocketId id;
  boost::asio::posix::stream_descriptor watched;
  bool waiting = false, posted = false;
};

RealTransport::RealTransport(boost::asio::io_context& io, TransportOptions options)
    : io_(io), options_(std::move(options)) {}

RealTransport::~RealTransport() {
  open_.clear();
  sockets_.reset();
  context_.reset();
}

Status RealTransport::open(OnMessage on_message, OnUnreachable on_unreachable) {
  on_message_ = std::move(on_message);
  on_unreachable_ = std::move(on_unreachable);
  BP_ASSIGN(context_, bus::Context::start());
  sockets_ = std::make_unique<bus::LoopSockets>(*context_);
  BP_TRY(listen(shell::Channel::kStages, {options_.stage_endpoint, {}, {}}, nullptr));
  return listen_nodes();
}

Status RealTransport::open_clients() {
  return listen(shell::Channel::kClients, {options_.client_endpoint, {}, {}}, nullptr);
}

Status RealTransport::listen(shell::Channel channel, bus::ListenOptions options,
                             std::string* endpoint) {
  bus::LoopSockets::Handlers handlers;
  handlers.on_message = [this, channel](const bus::Peer& peer, std::string_view payload) {
    on_message_(channel, peer, payload);
  };
  // Not from within a send: who sends may be going through its list of peers.
  handlers.on_unreachable = [this, channel](const std::string& routing_id) {
    boost::asio::post(io_, [this, channel, routing_id] { on_unreachable_(channel, routing_id); });
  };
  BP_ASSIGN(auto listening, sockets_->listen(std::move(options), std::move(handlers)));
  open_[channel] = std::make_unique<Open>(io_, listening.id, sockets_->fd(listening.id));
  if (endpoint) *endpoint = listening.endpoint;
  read_after_sending(channel);
  return {};
}

void RealTransport::watch(shell::Channel channel) {
  Open& open = *open_.at(channel);
  if (open.waiting) return;
  open.waiting = true;
  open.watched.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                          [this, channel](const boost::system::error_code& ec) {
                            if (ec) return;
                            open_.at(channel)->waiting = false;
                            read(channel);
                          });
}

// Goes on after other work of the loop had its turn.
void RealTransport::read(shell::Channel channel) {
  if (sockets_->read(open_.at(channel)->id) == bus::LoopSockets::After::kMore) {
    return read_after_sending(channel);
  }
  watch(channel);
}

// A send may have swallowed the signal that something can be read.
void RealTransport::read_after_sending(shell::Channel channel) {
  Open& open = *open_.at(channel);
  if (open.posted) return;
  open.posted = true;
  boost::asio::post(io_, [this, channel] {
    open_.at(channel)->posted = false;
    read(channel);
  });
}

// Nodes remember the endpoint: the old port is taken again while it is free.
Status RealTransport::listen_nodes() {
  bus::ListenOptions options;
  options.keys = options_.keys;
  options.handover = false;  // nodes of different deployments must not take over each other's ids
  options.authorize = [keys = keys_](std::string_view key) {
    std::lock_guard lock(keys->mutex);
    auto it = keys->users.find(key);
    return it == keys->users.end() ? std::string() : it->second;
  };
  std::string before;
  if (auto file = read_file(options_.node_endpoint_file, 4096); file.ok()) {
    before = file->substr(0, file->find('\n'));
  }
  Status bound = Error{ErrorCode::kPortBusy, "no endpoint on file", {}};
  if (before.starts_with("tcp://127.0.0.1:")) {
    options.endpoint = before;
    bound = listen(shell::Channel::kNodes, options, &node_endpoint_);
    if (!bound.ok())
      BP_LOG(warn, "node_endpoint.busy", "endpoint={} why={}", before, bound.error().message);
  }
  if (!bound.ok()) {
    options.endpoint = "tcp://127.0.0.1:0";
    BP_TRY(listen(shell::Channel::kNodes, options, &node_endpoint_));
  }
  return write_file_atomic(options_.node_endpoint_file,
                           node_endpoint_ + "\n" + options_.keys.public_key + "\n");
}

void RealTransport::send(shell::Channel channel, const std::string& routing_id,
                         std::string_view payload) {
  auto it = open_.find(channel);
  if (it == open_.end()) return;
  sockets_->send(it->second->id, routing_id, payload);
  read_after_sending(channel);
}

void RealTransport::allow_node(const std::string& public_key, const std::string& user) {
  std::lock_guard lock(keys_->mutex);
  keys_->users[public_key] = user;
}

void RealTransport::forbid_node(const std::string& public_key) {
  std::lock_guard lock(keys_->mutex);
  keys_->users.erase(public_key);
}

}  // namespace bp::daemon
