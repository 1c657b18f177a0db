#include "runtime/head/api_render.h"

#include <boost/json.hpp>
#include <cmath>

#include "runtime/text/utf8.h"

namespace bp::rt {
namespace {

namespace json = boost::json;
using Tokens = std::vector<v1::SampledToken>;

json::value finish(const ChoiceState& c) {
  return c.finish_reason.empty() ? json::value(nullptr) : json::value(c.finish_reason);
}
json::array ids(const TokenList& tokens) { return json::array(tokens.begin(), tokens.end()); }
json::array ids(const Tokens& tokens) {
  json::array out;
  for (const auto& t : tokens) out.emplace_back(t.token());
  return out;
}
std::string token_text(const AnswerContext& c, uint32_t token) {
  return valid_utf8(c.tokenizer->token_bytes(token, true));
}
/// JSON has no infinities; OpenAI writes -9999.0 for a probability of zero.
double finite(float logprob) {
  return std::isfinite(logprob) ? static_cast<double>(logprob) : -9999.0;
}

json::object chat_logprob(const AnswerContext& c, uint32_t token, float logprob) {
  std::string bytes = c.tokenizer->token_bytes(token, true);
  json::array numbers;
  for (char b : bytes) numbers.emplace_back(static_cast<unsigned char>(b));
  return {{"token", valid_utf8(bytes)}, {"logprob", finite(logprob)}, {"bytes", numbers}};
}
json::value chat_logprobs(const AnswerContext& c, const Tokens& tokens) {
  if (!c.request->want_logprobs) return nullptr;
  json::array content;
  for (const auto& t : tokens) {
    json::object entry = chat_logprob(c, t.token(), t.logprob());
    json::array top;
    for (const auto& alternative : t.top())
      top.push_back(chat_logprob(c, alternative.token(), alternative.logprob()));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return json::object{{"content", std::move(content)}, {"refusal", nullptr}};
}
json::value completion_logprobs(const AnswerContext& c, const Tokens& tokens, size_t offset) {
  if (!c.request->want_logprobs) return nullptr;
  json::array texts, logprobs, tops, offsets;
  for (const auto& t : tokens) {
    std::string text = token_text(c, t.token());
    offsets.emplace_back(offset);
    offset += text.size();
    texts.emplace_back(text);
    logprobs.emplace_back(finite(t.logprob()));
    json::object top;
    for (const auto& a : t.top()) top[token_text(c, a.token())] = finite(a.logprob());
    tops.push_back(std::move(top));
  }
  return json::object{{"text_offset", offsets},
                      {"token_logprobs", logprobs},
                      {"tokens", texts},
                      {"top_logprobs", tops}};
}

json::object usage(const AnswerContext& c, const std::vector<ChoiceState>& choices) {
  uint64_t prompt = 0, completion = 0;
  for (const auto& p : c.prompts) prompt += p.size();
  for (const auto& choice : choices) completion += choice.tokens.size();
  return {{"prompt_tokens", prompt},
          {"total_tokens", prompt + completion},
          {"completion_tokens", completion}};
}
json::object envelope(const AnswerContext& c, const char* object) {
  return {{"id", c.id}, {"object", object}, {"created", c.created}, {"model", c.model}};
}

}  // namespace

std::string render_answer(const AnswerContext& c, const std::vector<ChoiceState>& choices) {
  const ApiRequest& r = *c.request;
  json::object out = envelope(c, r.chat ? "chat.completion" : "text_completion");
  json::array list;
  for (const ChoiceState& choice : choices) {
    json::object o{{"index", choice.index}};
    if (r.chat) {
      o["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
      o["logprobs"] = chat_logprobs(c, choice.tokens);
    } else {
      o["text"] = choice.text;
      o["logprobs"] = completion_logprobs(c, choice.tokens, 0);
    }
    o["finish_reason"] = finish(choice);
    if (r.return_token_ids) {
      o["token_ids"] = ids(choice.tokens);
      if (!r.chat) o["prompt_token_ids"] = ids(c.prompts[choice.prompt]);
    }
    list.push_back(std::move(o));
  }
  out["choices"] = std::move(list);
  out["usage"] = usage(c, choices);
  if (r.chat && r.return_token_ids) out["prompt_token_ids"] = ids(c.prompts[0]);
  return json::serialize(out);
}

void append_json_text(std::string& out, std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && c != '"' && c != '\\') {
      out += c;
      continue;
    }
    out += '\\';
    switch (c) {
      case '\b': out += 'b'; break;
      case '\f': out += 'f'; break;
      case '\n': out += 'n'; break;
      case '\r': out += 'r'; break;
      case '\t': out += 't'; break;
      case '"':
      case '\\': out += c; break;
      default:
        out += "u00";
        out += kHex[byte >> 4];
        out += kHex[byte & 15];
    }
  }
}

namespace {

/// What only some requests ask for.
void append_extras(std::string& out, const AnswerContext& c, const ChoiceState& choice,
                   const Tokens& tokens, bool first) {
  const ApiRequest& r = *c.request;
  if (!r.return_token_ids) return;
  out += ",\"token_ids\":" + json::serialize(ids(tokens));
  if (first && !r.chat) out += ",\"prompt_token_ids\":" + json::serialize(ids(c.prompts[choice.prompt]));
}

}  // namespace

// Written by hand: it runs for every token of every stream.
std::string render_chunk(AnswerContext& c, const ChoiceState& choice, const std::string& text,
                         const Tokens& tokens, bool first) {
  const ApiRequest& r = *c.request;
  if (c.chunk_head.empty()) {
    c.chunk_head = json::serialize(envelope(c, r.chat ? "chat.completion.chunk" : "text_completion"));
    c.chunk_head.pop_back();
    c.chunk_head += ",\"choices\":[{\"index\":";
  }
  std::string out;
  out.reserve(c.chunk_head.size() + text.size() + 128);
  out += c.chunk_head;
  out += std::to_string(choice.index);
  const bool says = !r.chat || !text.empty() || choice.finish_reason.empty();
  out += r.chat ? ",\"delta\":{" : ",";
  if (says) {
    out += r.chat ? "\"content\":\"" : "\"text\":\"";
    append_json_text(out, text);
    out += '"';
  }
  out += r.chat ? "},\"logprobs\":" : ",\"logprobs\":";
  if (!r.want_logprobs)
    out += "null";
  else
    out += json::serialize(r.chat ? chat_logprobs(c, tokens)
                                  : completion_logprobs(c, tokens, choice.text_offset));
  out += ",\"finish_reason\":";
  out += choice.finish_reason.empty() ? "null" : "\"" + choice.finish_reason + "\"";
  append_extras(out, c, choice, tokens, first);
  out += r.include_usage ? "}],\"usage\":null}" : "}]}";
  return out;
}

std::string render_role_chunk(const AnswerContext& c, const ChoiceState& choice) {
  json::object out = envelope(c, "chat.completion.chunk");
  out["choices"] = json::array{json::object{{"index", choice.index},
                                            {"delta", {{"role", "assistant"}, {"content", ""}}},
                                            {"logprobs", nullptr},
                                            {"finish_reason", nullptr}}};
  if (c.request->include_usage) out["usage"] = nullptr;
  if (c.request->return_token_ids) out["prompt_token_ids"] = ids(c.prompts[0]);
  return json::serialize(out);
}

std::string render_usage_chunk(const AnswerContext& c, const std::vector<ChoiceState>& choices) {
  json::object out = envelope(c, c.request->chat ? "chat.completion.chunk" : "text_completion");
  out["choices"] = json::array{};
  out["usage"] = usage(c, choices);
  return json::serialize(out);
}

}  // namespace bp::rt
