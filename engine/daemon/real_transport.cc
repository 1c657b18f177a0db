#include "engine/daemon/real_transport.h"

#include "engine/base/files.h"
#include "engine/base/log.h"

namespace bp::daemon {

RealTransport::RealTransport(shell::Executor& executor, TransportOptions options)
    : executor_(executor), options_(std::move(options)) {}

RealTransport::~RealTransport() {
  sockets_.reset();
  context_.reset();
}

Status RealTransport::open(OnMessage on_message, OnUnreachable on_unreachable) {
  on_message_ = std::move(on_message);
  on_unreachable_ = std::move(on_unreachable);
  BP_ASSIGN(context_, bus::Context::start());
  BP_ASSIGN(sockets_, bus::SocketThread::start(*context_, [this](std::function<void()> f) {
              executor_.post(std::move(f));
            }));
  BP_TRY(listen(shell::Channel::kStages, {options_.stage_endpoint, {}, {}}, nullptr));
  return listen_nodes();
}

Status RealTransport::open_clients() {
  return listen(shell::Channel::kClients, {options_.client_endpoint, {}, {}}, nullptr);
}

Status RealTransport::listen(shell::Channel channel, bus::ListenOptions options,
                             std::string* endpoint) {
  auto listening = sockets_->listen(
      std::move(options),
      [this, channel](bus::Incoming m) { on_message_(channel, m.peer, m.payload); },
      [this, channel](std::string routing_id) { on_unreachable_(channel, routing_id); });
  if (!listening.ok()) return std::move(listening).error();
  ids_[channel] = listening->id;
  if (endpoint) *endpoint = listening->endpoint;
  return {};
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
                         std::string payload) {
  auto it = ids_.find(channel);
  if (it != ids_.end()) sockets_->send(it->second, routing_id, std::move(payload));
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
