#include "runtime/head/completion_job.h"

#include <fmt/format.h>

#include <ctime>
#include <optional>

#include "engine/base/ids.h"

namespace bp::rt {
namespace {

ApiError too_long(size_t tokens, uint32_t context, const char* param) {
  return {
      400,
      fmt::format("This model's maximum context length is {} tokens; the prompt has {}{}", context,
                  tokens, tokens >= context ? "" : " and leaves no room for 'max_tokens'"),
      "invalid_request_error", param, "context_length_exceeded"};
}

ApiError from_engine(const Error& e) {
  if (e.code == ErrorCode::kOverloaded)
    return {429, e.message, "rate_limit_error", "", "rate_limit_exceeded"};
  if (e.code == ErrorCode::kDeadlineExceeded)
    return {408, e.message, "timeout_error", "", "deadline_exceeded"};
  bool busy = e.code == ErrorCode::kUnavailable || e.code == ErrorCode::kPeerLost ||
              e.code == ErrorCode::kStaleEpoch;
  bool ours = e.code == ErrorCode::kTooLarge || e.code == ErrorCode::kInvalidArgument;
  return {busy   ? 503
          : ours ? 400
                 : 500,
          e.message, ours ? "invalid_request_error" : "server_error", "", ""};
}

class CompletionJob : public std::enable_shared_from_this<CompletionJob> {
 public:
  CompletionJob(ApiRequest request, const Tokenizer& tokenizer, std::shared_ptr<HttpAnswer> answer)
      : request_(std::move(request)), tokenizer_(tokenizer), answer_(std::move(answer)) {}

  void start(const JobOptions& options, EngineLoop& engine) {
    tenant_ = options.tenant.empty() ? request_.user : options.tenant;
    context_.request = &request_;
    context_.tokenizer = &tokenizer_;
    context_.id = random_id(request_.chat ? "chatcmpl" : "cmpl");
    context_.created = time(nullptr);
    context_.model = options.model;
    if (auto error = tokenize(options)) return answer_error(*answer_, *error);
    for (const auto& [token, bias] : request_.logit_bias) {
      if (token < tokenizer_.vocab_size()) continue;
      return answer_error(
          *answer_, {400,
                     fmt::format("'logit_bias': token id {}, expected below {}", token,
                                 tokenizer_.vocab_size()),
                     "invalid_request_error", "logit_bias", "invalid_value"});
    }
    std::vector<ChoiceRequest> choices;
    if (auto error = make_choices(options, choices)) return answer_error(*answer_, *error);
    auto self = shared_from_this();
    auto ids = start_generation(engine, tokenizer_, std::move(choices),
                                [self](const ChoiceDelta& d) { self->on_delta(d); });
    if (!ids.ok()) return answer_error(*answer_, from_engine(ids.error()));
    answer_->on_closed([&engine, ids = *ids] { engine.cancel(ids); });
  }

 private:
  std::optional<ApiError> tokenize(const JobOptions& options) {
    // A text with more bytes than the context can hold is refused before it is read.
    size_t bytes_max = static_cast<size_t>(options.max_context_tokens) *
                       std::max<size_t>(1, tokenizer_.longest_token_bytes());
    const char* param = request_.chat ? "messages" : "prompt";
    if (request_.chat) {
      auto prompt = tokenizer_.apply_chat_template(request_.messages, true);
      if (!prompt.ok())
        return ApiError{400, prompt.error().message, "invalid_request_error", "messages", ""};
      if (prompt->size() > bytes_max)
        return too_long(prompt->size(), options.max_context_tokens, param);
      context_.prompts.push_back(
          tokenizer_.encode(*prompt, /*add_special=*/false, /*parse_special=*/true));
    }
    for (ApiPrompt& p : request_.prompts) {
      if (auto* tokens = std::get_if<TokenList>(&p)) {
        for (uint32_t t : *tokens) {
          if (t >= tokenizer_.vocab_size()) {
            return ApiError{
                400,
                fmt::format("'prompt': token id {}, expected below {}", t, tokenizer_.vocab_size()),
                "invalid_request_error", "prompt", "invalid_value"};
          }
        }
        context_.prompts.push_back(*tokens);
        continue;
      }
      const std::string& text = std::get<std::string>(p);
      if (text.size() > bytes_max) return too_long(text.size(), options.max_context_tokens, param);
      context_.prompts.push_back(
          tokenizer_.encode(text, /*add_special=*/true, /*parse_special=*/true));
    }
    for (const TokenList& p : context_.prompts) {
      if (p.empty())
        return ApiError{400, fmt::format("'{}' has no tokens", param), "invalid_request_error",
                        param, "invalid_value"};
      if (p.size() >= options.max_context_tokens)
        return too_long(p.size(), options.max_context_tokens, param);
      if (request_.max_tokens && p.size() + *request_.max_tokens > options.max_context_tokens) {
        return too_long(p.size(), options.max_context_tokens, "max_tokens");
      }
    }
    return std::nullopt;
  }

  std::optional<ApiError> make_choices(const JobOptions& options, std::vector<ChoiceRequest>& out) {
    uint64_t seed = request_.seed ? *request_.seed : random_seed();
    for (size_t p = 0; p < context_.prompts.size(); ++p) {
      auto room = options.max_context_tokens - static_cast<uint32_t>(context_.prompts[p].size());
      for (uint32_t n = 0; n < request_.n; ++n) {
        ChoiceRequest c;
        c.prompt = context_.prompts[p];
        c.max_tokens = request_.max_tokens ? *request_.max_tokens
                       : request_.chat     ? room
                                           : std::min(room, 16u);
        c.stops = request_.stop;
        c.ignore_eos = request_.ignore_eos;
        c.priority = request_.priority;
        c.tenant = tenant_;
        c.timeout_ms = request_.timeout_ms;
        if (n > 0) c.same_prompt_as = out.size() - n;
        c.sampling = sampling();
        c.sampling.set_seed(seed);
        c.sampling.set_choice(n);
        out.push_back(std::move(c));
        ChoiceState state;
        state.index = static_cast<uint32_t>(choices_.size());
        state.prompt = p;
        if (request_.echo) state.text = tokenizer_.decode(context_.prompts[p]);
        choices_.push_back(std::move(state));
      }
    }
    pending_.resize(choices_.size());
    if (choices_.size() > 1024)
      return ApiError{400, "more than 1024 choices", "invalid_request_error", "n", "invalid_value"};
    left_ = choices_.size();
    return std::nullopt;
  }

  v1::Sampling sampling() const {
    v1::Sampling s;
    s.set_temperature(request_.temperature);
    s.set_top_p(request_.top_p);
    s.set_top_k(request_.top_k);
    s.set_min_p(request_.min_p);
    s.set_presence_penalty(request_.presence_penalty);
    s.set_frequency_penalty(request_.frequency_penalty);
    s.set_repetition_penalty(request_.repetition_penalty == 1 ? 0 : request_.repetition_penalty);
    for (const auto& [token, bias] : request_.logit_bias) {
      v1::LogitBias* b = s.add_logit_bias();
      b->set_token(token);
      b->set_bias(bias);
    }
    s.set_logprobs(request_.top_logprobs);
    s.set_want_logprob(request_.want_logprobs);
    return s;
  }

  // ---- where the engine delivers: the HTTP thread in bp-head

  void on_delta(const ChoiceDelta& d) {
    if (failed_) return;
    if (d.error) return fail(*d.error, d.retry_after_ms);
    ChoiceState& c = choices_[d.choice];
    if (d.token) c.tokens.push_back(*d.token);
    if (d.last) {
      c.finish_reason = d.finish_reason;
      --left_;
    }
    if (request_.stream)
      stream(c, d);
    else
      c.text += d.text;
    if (left_ > 0) return;
    if (request_.stream) {
      if (request_.include_usage) event(render_usage_chunk(context_, choices_));
      event("[DONE]");
      answer_->end();
    } else {
      answer_->send({200, "application/json", render_answer(context_, choices_), {}});
    }
  }

  void begin_stream() {
    if (std::exchange(began_, true)) return;
    answer_->begin_stream("text/event-stream; charset=utf-8");
    for (const ChoiceState& c : choices_) {
      if (request_.chat)
        event(render_role_chunk(context_, c));
      else if (request_.echo)
        event(render_chunk(context_, c, c.text, {}, true));
    }
  }

  void stream(ChoiceState& c, const ChoiceDelta& d) {
    begin_stream();
    std::vector<v1::SampledToken>& tokens = pending_[c.index];
    if (d.token) tokens.push_back(*d.token);
    if (d.text.empty() && !d.last) return;  // goes out with the text that it becomes
    bool first = c.tokens.size() == tokens.size();
    event(render_chunk(context_, c, d.text, tokens, first));
    for (const auto& t : tokens) c.text_offset += tokenizer_.token_bytes(t.token(), true).size();
    tokens.clear();
  }

  void fail(const Error& error, int64_t retry_after_ms) {
    failed_ = true;
    ApiError e = from_engine(error);
    e.retry_after_ms = retry_after_ms;
    if (!began_) return answer_error(*answer_, e);
    event(api_error_json(e));
    event("[DONE]");
    answer_->end();
  }

  void event(std::string data) {
    data.insert(0, "data: ");
    data += "\n\n";
    answer_->write(std::move(data));
  }

  ApiRequest request_;
  std::string tenant_;
  const Tokenizer& tokenizer_;
  std::shared_ptr<HttpAnswer> answer_;
  AnswerContext context_;
  std::vector<ChoiceState> choices_;
  std::vector<std::vector<v1::SampledToken>> pending_;  // tokens whose text is held back
  size_t left_ = 0;
  bool began_ = false;
  bool failed_ = false;
};

}  // namespace

void answer_error(HttpAnswer& answer, const ApiError& error) {
  HttpResponse r;
  r.status = error.status;
  r.body = api_error_json(error);
  if (error.status == 429) {
    const int64_t s = std::max<int64_t>(1, (error.retry_after_ms + 999) / 1000);
    r.headers.emplace_back("Retry-After", std::to_string(s));
  }
  if (error.status == 503) r.headers.emplace_back("Retry-After", "2");
  answer.send(std::move(r));
}

void start_completion(ApiRequest request, const JobOptions& options, EngineLoop& engine,
                      const Tokenizer& tokenizer, std::shared_ptr<HttpAnswer> answer) {
  std::make_shared<CompletionJob>(std::move(request), tokenizer, std::move(answer))
      ->start(options, engine);
}

}  // namespace bp::rt
