#include "runtime/head/client_port.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "engine/base/log.h"
#include "runtime/head/api_request.h"
#include "runtime/head/generation.h"

namespace bp::rt {
namespace {

void fill_error(const Error& e, v1::ErrorInfo* out) {
  out->set_code(std::string(error_name(e.code)));
  out->set_message(e.message);
  out->set_remedy(std::string(e.what_to_do()));
}

/// Sends replies from any thread, for as long as the port is open.
class Replies {
 public:
  explicit Replies(bus::SocketThread& sockets) : sockets_(&sockets) {}
  void send(const std::string& peer, const v1::HeadReply& reply) {
    std::lock_guard lock(mutex_);
    if (sockets_) sockets_->send(socket_, peer, reply.SerializeAsString());
  }
  void bind(bus::SocketThread::SocketId socket) {
    std::lock_guard lock(mutex_);
    socket_ = socket;
  }
  void close() {
    std::lock_guard lock(mutex_);
    sockets_ = nullptr;
  }

 private:
  std::mutex mutex_;
  bus::SocketThread* sockets_;
  bus::SocketThread::SocketId socket_ = 0;
};

/// Generations under way, by client and request id. Outlives the port with the sequences that use
/// it.
struct Running {
  using Key = std::pair<std::string, uint64_t>;
  std::mutex mutex;
  std::map<Key, std::vector<uint64_t>> ids;
  Key ended_early;  // ended before its ids were known

  void begin(const Key& key, std::vector<uint64_t> sequence_ids) {
    std::lock_guard lock(mutex);
    if (ended_early != key) ids[key] = std::move(sequence_ids);
    ended_early = {};
  }
  std::vector<uint64_t> end(const Key& key, bool by_itself) {
    std::lock_guard lock(mutex);
    auto found = ids.find(key);
    if (found == ids.end()) {
      if (by_itself) ended_early = key;
      return {};
    }
    std::vector<uint64_t> out = std::move(found->second);
    ids.erase(found);
    return out;
  }
  /// Everything that a client which is gone had asked for.
  std::vector<uint64_t> end_all(const std::string& client) {
    std::lock_guard lock(mutex);
    std::vector<uint64_t> out;
    for (auto it = ids.lower_bound({client, 0}); it != ids.end() && it->first.first == client;) {
      out.insert(out.end(), it->second.begin(), it->second.end());
      it = ids.erase(it);
    }
    return out;
  }
};

class ClientPortImpl final : public ClientPort {
 public:
  ClientPortImpl(ClientPortOptions options, EngineLoop& engine, const Tokenizer& tokenizer)
      : options_(std::move(options)), engine_(engine), tokenizer_(tokenizer) {}
  ~ClientPortImpl() override {
    if (replies_) replies_->close();
    sockets_.reset();
  }

  Status start(bus::Context& context) {
    BP_ASSIGN(sockets_, bus::SocketThread::start(context, [](std::function<void()> f) { f(); }));
    replies_ = std::make_shared<Replies>(*sockets_);
    bus::ListenOptions listen;
    listen.endpoint = options_.endpoint;
    listen.keys = options_.keys;
    listen.authorize = [control = options_.control_public_key,
                        client = options_.client_public_key](std::string_view key) {
      if (!control.empty() && key == control) return std::string("control");
      if (!client.empty() && key == client) return std::string("client");
      return std::string();
    };
    auto listening = sockets_->listen(
        std::move(listen), [this](bus::Incoming in) { on_message(in); },
        [this](std::string client) {
          auto ids = running_->end_all(client);
          if (!ids.empty()) engine_.cancel(std::move(ids));
        });
    if (!listening.ok()) return std::move(listening).error();
    endpoint_ = listening->endpoint;
    replies_->bind(listening->id);
    return {};
  }
  const std::string& endpoint() const override { return endpoint_; }

 private:
  // ---- socket thread

  void on_message(const bus::Incoming& in) {
    auto request = bus::parse<v1::HeadRequest>(in.payload);
    if (!request.ok()) {
      BP_LOG(warn, "client.garbage", "user={} error={}", in.peer.user, request.error().message);
      return;
    }
    switch (request->what_case()) {
      case v1::HeadRequest::kControl:
        return control(in.peer, *request);
      case v1::HeadRequest::kGenerate:
        return generate(in.peer, *request);
      case v1::HeadRequest::kCancel:
        return cancel(in.peer, request->cancel().request_id());
      default:
        BP_LOG(warn, "client.empty_request", "user={}", in.peer.user);
    }
  }

  void control(const bus::Peer& peer, const v1::HeadRequest& request) {
    v1::HeadReply reply;
    reply.set_request_id(request.request_id());
    auto send = [replies = replies_, to = peer.routing_id](const v1::HeadReply& r) {
      replies->send(to, r);
    };
    if (peer.user != "control") {
      fill_error(Error{ErrorCode::kUnauthorized, "control needs the control key", {}},
                 reply.mutable_control()->mutable_error());
      return send(reply);
    }
    switch (request.control().ask_case()) {
      case v1::HeadControl::kStatus: {
        v1::HeadStatus* status = reply.mutable_control()->mutable_status();
        engine_.fill_status(status);
        status->mutable_epoch()->set_incarnation(options_.epoch.incarnation);
        status->mutable_epoch()->set_counter(options_.epoch.counter);
        return send(reply);
      }
      case v1::HeadControl::kCanary:
        return engine_.canary([reply, send,
                               &tokenizer = tokenizer_](Result<EngineLoop::Canary> r) mutable {
          if (r.ok()) {
            reply.mutable_control()->mutable_canary()->set_first_token_ms(r->first_token_ms);
            reply.mutable_control()->mutable_canary()->set_text(tokenizer.decode({r->token}, true));
          } else {
            fill_error(r.error(), reply.mutable_control()->mutable_error());
          }
          send(reply);
        });
      case v1::HeadControl::kDrain:
        return engine_.drain(request.control().drain().deadline_ms(),
                             [reply, send](uint64_t left) mutable {
                               reply.mutable_control()->mutable_drained()->set_requests_left(left);
                               send(reply);
                             });
      case v1::HeadControl::kExpectGroup: {
        const auto& epoch = request.control().expect_group().group_epoch();
        return engine_.expect_group(
            {epoch.incarnation(), epoch.counter()},
            [&engine = engine_, reply, send](Status s) mutable {
              if (s.ok())
                engine.fill_status(reply.mutable_control()->mutable_status());
              else
                fill_error(s.error(), reply.mutable_control()->mutable_error());
              send(reply);
            });
      }
      default:
        fill_error(Error{ErrorCode::kProtocol, "an empty control request", {}},
                   reply.mutable_control()->mutable_error());
        send(reply);
    }
  }

  Result<ChoiceRequest> choice_of(const v1::GenerateRequest& g) {
    ChoiceRequest c;
    switch (g.prompt_case()) {
      case v1::GenerateRequest::kText:
        c.prompt = tokenizer_.encode(g.text(), true, true);
        break;
      case v1::GenerateRequest::kTokens:
        c.prompt.assign(g.tokens().ids().begin(), g.tokens().ids().end());
        break;
      case v1::GenerateRequest::kChatJson: {
        auto parsed = parse_chat_request("{\"messages\":" + g.chat_json() + "}");
        if (auto* e = std::get_if<ApiError>(&parsed))
          return Error{ErrorCode::kInvalidArgument, e->message, {}};
        BP_ASSIGN(std::string text,
                  tokenizer_.apply_chat_template(std::get<ApiRequest>(parsed).messages, true));
        c.prompt = tokenizer_.encode(text, false, true);
        break;
      }
      default:
        return Error{ErrorCode::kInvalidArgument, "generate: no prompt", {}};
    }
    for (uint32_t t : c.prompt) {
      if (t >= tokenizer_.vocab_size()) {
        return Error{ErrorCode::kInvalidArgument,
                     fmt::format("prompt: token {}, expected below {}", t, tokenizer_.vocab_size()),
                     {}};
      }
    }
    if (c.prompt.empty() || c.prompt.size() >= options_.max_context_tokens) {
      return Error{ErrorCode::kTooLarge,
                   fmt::format("prompt: {} tokens, expected 1 to {}", c.prompt.size(),
                               options_.max_context_tokens - 1),
                   {}};
    }
    const v1::Sampling& s = g.sampling();
    if (!(s.temperature() >= 0 && s.temperature() <= 100) || !(s.top_p() >= 0 && s.top_p() <= 1) ||
        s.logprobs() > 20) {
      return Error{ErrorCode::kInvalidArgument,
                   "sampling: expected temperature 0 to 100, top_p 0 to 1, at most 20 logprobs",
                   {}};
    }
    c.sampling = s;
    if (s.top_p() == 0) c.sampling.set_top_p(1);
    auto room = options_.max_context_tokens - static_cast<uint32_t>(c.prompt.size());
    c.max_tokens = g.max_tokens() == 0 ? room : std::min(g.max_tokens(), room);
    c.ignore_eos = g.ignore_eos();
    c.priority = std::clamp(g.priority(), -1000, 1000);
    c.timeout_ms = g.timeout_ms();
    for (const std::string& stop : g.stop()) {
      if (!stop.empty()) c.stops.push_back(stop);
    }
    return c;
  }

  void generate(const bus::Peer& peer, const v1::HeadRequest& request) {
    auto send = [replies = replies_, to = peer.routing_id,
                 id = request.request_id()](v1::GenerateReply reply) {
      v1::HeadReply out;
      out.set_request_id(id);
      *out.mutable_generate() = std::move(reply);
      replies->send(to, out);
    };
    auto refuse = [&](const Error& e) {
      v1::GenerateReply reply;
      reply.set_done(true);
      reply.set_finish_reason("error");
      fill_error(e, reply.mutable_error());
      send(std::move(reply));
    };
    auto choice = choice_of(request.generate());
    if (!choice.ok()) return refuse(choice.error());
    auto prompt_tokens = static_cast<uint32_t>(choice->prompt.size());
    std::vector<ChoiceRequest> choices;
    choices.push_back(*std::move(choice));
    auto key = std::make_pair(peer.routing_id, request.request_id());
    uint32_t count = 0;
    auto ids = start_generation(
        engine_, tokenizer_, std::move(choices),
        [running = running_, send, key, prompt_tokens, count](const ChoiceDelta& d) mutable {
          v1::GenerateReply reply;
          reply.set_text(d.text);
          if (d.token) {
            reply.add_tokens(d.token->token());
            ++count;
          }
          reply.set_done(d.last);
          reply.set_finish_reason(d.finish_reason);
          reply.set_prompt_tokens(prompt_tokens);
          reply.set_completion_tokens(count);
          if (d.error) fill_error(*d.error, reply.mutable_error());
          if (d.last) running->end(key, true);
          send(std::move(reply));
        });
    if (!ids.ok()) return refuse(ids.error());
    running_->begin(key, *ids);
  }

  void cancel(const bus::Peer& peer, uint64_t request_id) {
    std::vector<uint64_t> ids = running_->end({peer.routing_id, request_id}, false);
    if (ids.empty()) return;
    engine_.cancel(std::move(ids));
    v1::HeadReply out;
    out.set_request_id(request_id);
    out.mutable_generate()->set_done(true);
    out.mutable_generate()->set_finish_reason("cancelled");
    replies_->send(peer.routing_id, out);
  }

  ClientPortOptions options_;
  EngineLoop& engine_;
  const Tokenizer& tokenizer_;
  std::unique_ptr<bus::SocketThread> sockets_;
  std::shared_ptr<Replies> replies_;
  std::string endpoint_;
  std::shared_ptr<Running> running_ = std::make_shared<Running>();
};

}  // namespace

Result<std::unique_ptr<ClientPort>> ClientPort::open(bus::Context& context,
                                                     ClientPortOptions options, EngineLoop& engine,
                                                     const Tokenizer& tokenizer) {
  auto port = std::make_unique<ClientPortImpl>(std::move(options), engine, tokenizer);
  BP_TRY(port->start(context));
  return std::unique_ptr<ClientPort>(std::move(port));
}

}  // namespace bp::rt
