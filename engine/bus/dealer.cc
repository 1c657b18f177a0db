#include <zmq.h>

#include <cerrno>

#include "engine/base/limits.h"
#include "engine/bus/context.h"

namespace bp::bus {

struct Dealer::Impl {
  Impl(Context::Impl& c, DialOptions o) : options(std::move(o)), socket(c, ZMQ_DEALER) {}
  Status dial();

  DialOptions options;
  Socket socket;
};

Status Dealer::Impl::dial() {
  if (options.max_message_bytes == 0) options.max_message_bytes = limits::kMessageBytes;
  BP_TRY(socket.set_common(options.max_message_bytes));
  if (options.only_connected) BP_TRY(socket.set_int(ZMQ_IMMEDIATE, 1));
  if (!options.routing_id.empty()) BP_TRY(socket.set_text(ZMQ_ROUTING_ID, options.routing_id));
  if (options.endpoint.starts_with("tcp://")) {
    if (options.server_public_key.empty() || options.keys.public_key.empty()) {
      return Error{
          ErrorCode::kInvalidArgument,
          "dialling " + options.endpoint + " needs the server's public key and keys of our own",
          {}};
    }
    BP_TRY(socket.set_text(ZMQ_CURVE_SERVERKEY, options.server_public_key));
    BP_TRY(socket.set_text(ZMQ_CURVE_PUBLICKEY, options.keys.public_key));
    BP_TRY(socket.set_text(ZMQ_CURVE_SECRETKEY, options.keys.secret_key.reveal()));
  } else if (!options.endpoint.starts_with("ipc://")) {
    return Error{ErrorCode::kInvalidArgument,
                 "endpoint " + options.endpoint + "; expected ipc://PATH or tcp://ADDRESS:PORT",
                 {}};
  }
  if (zmq_connect(socket.get(), options.endpoint.c_str()) != 0) {
    return zmq_error("dial " + options.endpoint);
  }
  return {};
}

Dealer::Dealer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Dealer::~Dealer() = default;

Result<std::unique_ptr<Dealer>> Dealer::dial(Context& context, DialOptions options) {
  auto impl = std::make_unique<Impl>(context.impl(), std::move(options));
  BP_TRY(impl->dial());
  return std::unique_ptr<Dealer>(new Dealer(std::move(impl)));
}

Status Dealer::send(std::string_view payload) {
  const auto& o = impl_->options;
  if (payload.size() > o.max_message_bytes) {
    return Error{ErrorCode::kTooLarge,
                 "message of " + std::to_string(payload.size()) + " bytes to " + o.endpoint +
                     "; at most " + std::to_string(o.max_message_bytes),
                 {}};
  }
  if (zmq_send(impl_->socket.get(), payload.data(), payload.size(), ZMQ_DONTWAIT) < 0) {
    if (errno == EAGAIN)
      return Error{ErrorCode::kUnavailable, "queue to " + o.endpoint + " is full", {}};
    return zmq_error("send to " + o.endpoint);
  }
  return {};
}

Result<std::string> Dealer::try_recv() {
  for (;;) {
    BP_ASSIGN(auto parts, receive_parts(impl_->socket.get()));
    if (parts.count == 1) return std::move(parts.first);
  }
}

Result<std::string> Dealer::recv(Deadline deadline) {
  for (;;) {
    auto got = try_recv();
    if (got.ok() || got.error().code != ErrorCode::kDeadlineExceeded) return got;
    BP_TRY(wait_readable(impl_->socket.get(), deadline, impl_->options.endpoint));
  }
}

void* raw_socket(Dealer& dealer) { return dealer.impl().socket.get(); }

}  // namespace bp::bus
