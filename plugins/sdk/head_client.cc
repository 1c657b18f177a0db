#include "plugins/sdk/head_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "engine/base/fd.h"
#include "engine/bus/bus.h"
#include "plugins/sdk/stage.h"

namespace bp::sdk {
namespace {

constexpr int64_t kLookMs = 200;  // between looks whether the head is still there while it does not answer

// "tcp://127.64.7.10:10001" -> socket address.
Result<sockaddr_in> parse_endpoint(const std::string& endpoint) {
  sockaddr_in addr{};
  addr.sin_family = AF_INET;
  size_t colon = endpoint.rfind(':');
  bool ok = endpoint.compare(0, 6, "tcp://") == 0 && colon != std::string::npos && colon > 6;
  if (ok) {
    long port = std::strtol(endpoint.c_str() + colon + 1, nullptr, 10);
    ok = port > 0 && port < 65536 &&
         ::inet_pton(AF_INET, endpoint.substr(6, colon - 6).c_str(), &addr.sin_addr) == 1;
    addr.sin_port = htons(static_cast<uint16_t>(port));
  }
  if (!ok) {
    return Error{ErrorCode::kInvalidArgument,
                 "head endpoint \"" + endpoint + "\" is not tcp://IPV4:PORT", {}};
  }
  return addr;
}

bool accepts(const sockaddr_in& addr) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return false;
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&addr), sizeof addr) == 0) return true;
  if (errno != EINPROGRESS) return false;
  pollfd p{fd.get(), POLLOUT, 0};
  if (::poll(&p, 1, 200) != 1) return false;
  int error = 0;
  socklen_t size = sizeof error;
  return ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
}

}  // namespace

struct HeadClient::Impl {
  HeadClientOptions options;
  sockaddr_in address{};
  std::unique_ptr<bus::Context> context;
  std::unique_ptr<bus::Dealer> dealer;
  uint64_t next_request = 1;
};

HeadClient::HeadClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HeadClient::~HeadClient() {
  impl_->dealer.reset();
}

Result<std::unique_ptr<HeadClient>> HeadClient::open(HeadClientOptions options) {
  auto impl = std::make_unique<Impl>();
  BP_ASSIGN(impl->address, parse_endpoint(options.endpoint));
  impl->options = std::move(options);
  BP_ASSIGN(impl->context, bus::Context::start());
  return std::unique_ptr<HeadClient>(new HeadClient(std::move(impl)));
}

bool HeadClient::listening() const { return accepts(impl_->address); }

Result<v1::HeadControlReply> HeadClient::ask(const v1::HeadControl& control, Deadline deadline) {
  const auto& o = impl_->options;
  if (!impl_->dealer) {
    // Dialled only once it listens: a reconnect delay of ZeroMQ would cost more than this probe.
    if (!listening()) {
      return Error{ErrorCode::kUnavailable, "nothing listens at " + o.endpoint + " (bp-head)", {}};
    }
    bus::DialOptions dial;
    dial.endpoint = o.endpoint;
    dial.keys = bus::KeyPair{o.control_public_key, o.control_secret_key};
    dial.server_public_key = o.head_public_key;
    BP_ASSIGN(impl_->dealer, bus::Dealer::dial(*impl_->context, std::move(dial)));
  }
  v1::HeadRequest request;
  request.set_request_id(impl_->next_request++);
  *request.mutable_control() = control;
  BP_TRY(impl_->dealer->send(request.SerializeAsString()));
  for (;;) {
    auto payload = impl_->dealer->recv(Deadline::in_ms(std::min(kLookMs, deadline.left_ms())));
    if (!payload.ok()) {
      if (payload.error().code != ErrorCode::kDeadlineExceeded) return payload.error();
      // ZeroMQ would wait for a dead head to come back: only its port tells.
      const bool there = listening();
      if (there && !deadline.passed()) continue;
      impl_->dealer.reset();  // a new connection for the next question: late answers cannot confuse it
      if (!there) {
        return Error{ErrorCode::kUnavailable, "bp-head at " + o.endpoint + " ended before it answered", {}};
      }
      return Error{ErrorCode::kDeadlineExceeded, "bp-head at " + o.endpoint + " did not answer in time", {}};
    }
    BP_ASSIGN(auto reply, bus::parse<v1::HeadReply>(*payload));
    if (reply.request_id() != request.request_id() || !reply.has_control()) continue;
    if (reply.control().has_error()) {
      const auto& e = reply.control().error();
      return Error{error_code_from_name(e.code()), "bp-head: " + e.message(), e.remedy()};
    }
    return std::move(*reply.mutable_control());
  }
}

Result<v1::HeadStatus> HeadClient::status(Deadline deadline) {
  v1::HeadControl c;
  c.mutable_status();
  BP_ASSIGN(auto reply, ask(c, deadline));
  return reply.status();
}

Result<v1::HeadCanaryResult> HeadClient::canary(Deadline deadline) {
  v1::HeadControl c;
  c.mutable_canary();
  BP_ASSIGN(auto reply, ask(c, deadline));
  return reply.canary();
}

Result<uint64_t> HeadClient::drain(int64_t drain_ms, Deadline deadline) {
  v1::HeadControl c;
  c.mutable_drain()->set_deadline_ms(drain_ms);
  BP_ASSIGN(auto reply, ask(c, deadline));
  return reply.drained().requests_left();
}

Status HeadClient::expect_group(const v1::Epoch& group_epoch, Deadline deadline) {
  v1::HeadControl c;
  *c.mutable_expect_group()->mutable_group_epoch() = group_epoch;
  BP_TRY(ask(c, deadline));
  return {};
}

Result<std::unique_ptr<HeadClient>> open_head_client(const v1::HeadReady& head, const Secret& control_key) {
  HeadClientOptions options;
  options.endpoint = head.client_endpoint();
  options.head_public_key = head.head_public_key();
  options.control_public_key = head.control_public_key();
  options.control_secret_key = control_key;
  return HeadClient::open(std::move(options));
}

Result<std::unique_ptr<HeadClient>> open_head_client(const StageContext& ctx, const v1::HeadReady& head) {
  BP_ASSIGN(std::string key, ctx.secret("control_secret_key"));
  return open_head_client(head, Secret(std::move(key)));
}

}  // namespace bp::sdk
