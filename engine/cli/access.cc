#include "engine/cli/access.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "engine/bus/bus.h"
#include "engine/cli/client.h"

namespace bp::cli {
namespace {

namespace json = boost::json;

constexpr int64_t kFirstReplyMs = 30'000;
constexpr int64_t kSilentMs = 120'000;
constexpr uint64_t kRequestId = 1;

v1::HeadRequest request_of(const GenerateOptions& o) {
  json::array messages;
  if (!o.system.empty()) messages.push_back({{"role", "system"}, {"content", o.system}});
  messages.push_back({{"role", "user"}, {"content", o.prompt}});
  v1::HeadRequest request;
  request.set_request_id(kRequestId);
  auto* g = request.mutable_generate();
  g->set_chat_json(json::serialize(messages));
  g->set_max_tokens(o.max_tokens);
  for (const std::string& s : o.stop) g->add_stop(s);
  auto* sampling = g->mutable_sampling();
  sampling->set_temperature(static_cast<float>(o.temperature));
  sampling->set_top_p(static_cast<float>(o.top_p.value_or(1)));
  sampling->set_top_k(o.top_k.value_or(0));
  sampling->set_seed(o.seed.value_or(0));
  return request;
}

void cancel(bus::Dealer& dealer) {
  v1::HeadRequest request;
  request.mutable_cancel()->set_request_id(kRequestId);
  (void)dealer.send(request.SerializeAsString());
}

}  // namespace

Result<Generated> generate_binary(const v1::Access& access, const GenerateOptions& options,
                                  const std::function<bool(const v1::GenerateReply&)>& on_reply) {
  BP_ASSIGN(auto context, bus::Context::start());
  bus::DialOptions dial;
  dial.endpoint = access.endpoint();
  dial.keys = bus::KeyPair{access.client_public_key(), Secret(access.client_secret_key())};
  dial.server_public_key = access.head_public_key();
  BP_ASSIGN(auto dealer, bus::Dealer::dial(*context, std::move(dial)));
  BP_TRY(dealer->send(request_of(options).SerializeAsString()));
  Generated result;
  int64_t wait_ms = kFirstReplyMs;
  for (bool wanted = true;;) {
    auto payload = dealer->recv(Deadline::in_ms(wait_ms));
    if (!payload.ok()) {
      if (payload.error().code != ErrorCode::kDeadlineExceeded) return payload.error();
      cancel(*dealer);
      return Error{
          ErrorCode::kDeadlineExceeded,
          fmt::format("bp-head at {} did not answer for {} s", access.endpoint(), wait_ms / 1000),
          {}};
    }
    wait_ms = kSilentMs;
    BP_ASSIGN(auto reply, bus::parse<v1::HeadReply>(*payload));
    if (reply.request_id() != kRequestId || !reply.has_generate()) continue;
    const v1::GenerateReply& g = reply.generate();
    if (g.has_error()) return error_of(g.error());
    if (wanted && !on_reply(g) && !g.done()) {
      wanted = false;
      cancel(*dealer);
    }
    result.prompt_tokens = std::max<uint64_t>(result.prompt_tokens, g.prompt_tokens());
    result.completion_tokens = std::max<uint64_t>(result.completion_tokens, g.completion_tokens());
    result.finish_reason = g.finish_reason();
    if (g.done()) return result;
  }
}

}  // namespace bp::cli
