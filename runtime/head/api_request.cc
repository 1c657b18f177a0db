#include "runtime/head/api_request.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <map>

#include "engine/base/limits.h"
#include "runtime/text/utf8.h"

namespace bp::rt {
namespace {

namespace json = boost::json;

constexpr uint32_t kChoicesMax = 64;
constexpr size_t kStopsMax = 16;
constexpr size_t kStopBytesMax = 1024;
constexpr size_t kPromptsMax = 256;
constexpr uint32_t kTopLogprobsMax = 20;
constexpr int64_t kPriorityMax = 1000;
constexpr int64_t kTimeoutMsMax = 86'400'000;
constexpr size_t kUserBytesMax = 256;
constexpr size_t kLogitBiasMax = 1024;

std::string kind_of(const json::value& v) {
  switch (v.kind()) {
    case json::kind::null: return "null";
    case json::kind::bool_: return "a boolean";
    case json::kind::string:
      return "a string";
    case json::kind::array:
      return "an array";
    case json::kind::object:
      return "an object";
    default:
      return "the number " + json::serialize(v);
  }
}

/// Thrown inside this file only; parse_* return it.
struct Wrong {
  ApiError error;
};
[[noreturn]] void wrong(const std::string& field, const json::value& found,
                        const std::string& expected) {
  throw Wrong{ApiError{400,
                       fmt::format("'{}': found {}, expected {}", field, kind_of(found), expected),
                       "invalid_request_error", field, "invalid_value"}};
}

double number(const std::string& field, const json::value& v, double low, double high) {
  double d = v.is_number() ? v.to_number<double>() : std::nan("");
  if (!(d >= low && d <= high)) wrong(field, v, fmt::format("a number from {} to {}", low, high));
  return d;
}
int64_t integer(const std::string& field, const json::value& v, int64_t low, int64_t high) {
  std::string expected = fmt::format("an integer from {} to {}", low, high);
  if (v.is_uint64()) wrong(field, v, expected);  // beyond int64
  bool whole = v.is_double() && v.get_double() == std::floor(v.get_double()) &&
               std::abs(v.get_double()) < 1e15;
  if (!v.is_int64() && !whole) wrong(field, v, expected);
  int64_t i = v.is_int64() ? v.get_int64() : static_cast<int64_t>(v.get_double());
  if (i < low || i > high) wrong(field, v, expected);
  return i;
}
bool boolean(const std::string& field, const json::value& v) {
  if (!v.is_bool()) wrong(field, v, "true or false");
  return v.get_bool();
}
std::string text(const std::string& field, const json::value& v) {
  if (!v.is_string()) wrong(field, v, "a string");
  return std::string(v.get_string());
}

void read_stop(ApiRequest& r, const std::string& f, const json::value& v) {
  auto one = [&](const std::string& where, const json::value& s) {
    std::string stop = text(where, s);
    if (stop.empty() || stop.size() > kStopBytesMax) {
      wrong(where, s, fmt::format("a string of 1 to {} bytes", kStopBytesMax));
    }
    r.stop.push_back(std::move(stop));
  };
  if (!v.is_array()) return one(f, v);
  if (v.get_array().size() > kStopsMax) wrong(f, v, fmt::format("at most {} strings", kStopsMax));
  for (size_t i = 0; i < v.get_array().size(); ++i)
    one(fmt::format("{}[{}]", f, i), v.get_array()[i]);
}

TokenList read_tokens(const std::string& f, const json::array& a) {
  TokenList out;
  for (size_t i = 0; i < a.size(); ++i) {
    out.push_back(static_cast<uint32_t>(integer(fmt::format("{}[{}]", f, i), a[i], 0, INT32_MAX)));
  }
  return out;
}

/// Text, token ids, or arrays of either.
void read_prompt(ApiRequest& r, const std::string& f, const json::value& v) {
  if (v.is_string()) {
    r.prompts.emplace_back(std::string(v.get_string()));
    return;
  }
  if (!v.is_array() || v.get_array().empty())
    wrong(f, v, "a string, token ids, or a non-empty array of them");
  const json::array& a = v.get_array();
  if (a[0].is_number()) {
    r.prompts.emplace_back(read_tokens(f, a));
    return;
  }
  if (a.size() > kPromptsMax) wrong(f, v, fmt::format("at most {} prompts", kPromptsMax));
  for (size_t i = 0; i < a.size(); ++i) {
    std::string where = fmt::format("{}[{}]", f, i);
    if (a[i].is_string())
      r.prompts.emplace_back(std::string(a[i].get_string()));
    else if (a[i].is_array() && !a[i].get_array().empty())
      r.prompts.emplace_back(read_tokens(where, a[i].get_array()));
    else
      wrong(where, a[i], "a string or token ids");
  }
}

std::string read_content(const std::string& f, const json::value& v) {
  if (v.is_string()) return std::string(v.get_string());
  if (v.is_null()) return "";
  if (!v.is_array()) wrong(f, v, "a string or an array of text parts");
  std::string out;
  for (size_t i = 0; i < v.get_array().size(); ++i) {
    const json::value& part = v.get_array()[i];
    std::string where = fmt::format("{}[{}]", f, i);
    const json::value* type = part.is_object() ? part.get_object().if_contains("type") : nullptr;
    const json::value* t = part.is_object() ? part.get_object().if_contains("text") : nullptr;
    if (!type || !type->is_string() || type->get_string() != "text" || !t)
      wrong(where, part, "a part of type text");
    out += text(where + ".text", *t);
  }
  return out;
}

void read_messages(ApiRequest& r, const std::string& f, const json::value& v) {
  if (!v.is_array() || v.get_array().empty()) wrong(f, v, "a non-empty array of messages");
  for (size_t i = 0; i < v.get_array().size(); ++i) {
    const json::value& m = v.get_array()[i];
    std::string where = fmt::format("{}[{}]", f, i);
    if (!m.is_object()) wrong(where, m, "an object with role and content");
    ChatMessage out;
    bool has_content = false;
    for (const auto& [key, value] : m.get_object()) {
      std::string field = where + "." + std::string(key);
      if (key == "role") {
        out.role = text(field, value);
        if (out.role == "developer") out.role = "system";
        if (out.role != "system" && out.role != "user" && out.role != "assistant") {
          throw Wrong{ApiError{
              400,
              fmt::format("'{}': found '{}', expected system, developer, user or assistant", field,
                          out.role.substr(0, 64)),
              "invalid_request_error", field, "invalid_value"}};
        }
      } else if (key == "content") {
        out.content = read_content(field, value);
        has_content = true;
      } else if (key == "name" || key == "refusal") {
        if (!value.is_null()) text(field, value);
      } else if (!value.is_null() && !(value.is_array() && value.get_array().empty())) {
        throw Wrong{ApiError{400, fmt::format("'{}' is not supported", field),
                             "invalid_request_error", field, "unsupported_parameter"}};
      }
    }
    if (out.role.empty() || !has_content) wrong(where, m, "an object with role and content");
    r.messages.push_back(std::move(out));
  }
}

void read_stream_options(ApiRequest& r, const std::string& f, const json::value& v) {
  if (!v.is_object()) wrong(f, v, "an object");
  for (const auto& [key, value] : v.get_object()) {
    std::string field = f + "." + std::string(key);
    if (key == "include_usage")
      r.include_usage = boolean(field, value);
    else if (key == "continuous_usage_stats" || key == "include_obfuscation") {
      if (boolean(field, value)) wrong(field, value, "false");
    } else {
      throw Wrong{ApiError{400, fmt::format("'{}' is not known", field), "invalid_request_error",
                           field, "unknown_parameter"}};
    }
  }
}

void read_logprobs(ApiRequest& r, const std::string& f, const json::value& v) {
  if (r.chat) {
    r.want_logprobs = boolean(f, v);
    return;
  }
  r.want_logprobs = true;
  r.top_logprobs = static_cast<uint32_t>(integer(f, v, 0, kTopLogprobsMax));
}

/// {"token id": -100 to 100, ...}
void read_logit_bias(ApiRequest& r, const std::string& f, const json::value& v) {
  if (!v.is_object()) wrong(f, v, "an object from token ids to numbers");
  if (v.get_object().size() > kLogitBiasMax)
    wrong(f, v, fmt::format("at most {} tokens", kLogitBiasMax));
  for (const auto& [key, value] : v.get_object()) {
    const std::string field = fmt::format("{}.{}", f, std::string(key).substr(0, 16));
    uint32_t token = 0;
    const auto [end, ec] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (ec != std::errc() || end != key.data() + key.size()) wrong(field, v, "token ids as names");
    r.logit_bias.emplace_back(token, static_cast<float>(number(field, value, -100, 100)));
  }
}

using Reader = void (*)(ApiRequest&, const std::string&, const json::value&);

/// Fields that are taken only with the value that means "nothing special".
bool is_neutral(std::string_view field, const json::value& v) {
  auto is_number = [&](double d) { return v.is_number() && v.to_number<double>() == d; };
  if (field == "min_tokens") return is_number(0);
  if (field == "best_of" || field == "length_penalty") return is_number(1);
  if (field == "tools" || field == "functions") return v.is_array() && v.get_array().empty();
  if (field == "tool_choice")
    return v.is_string() && (v.get_string() == "none" || v.get_string() == "auto");
  if (field == "response_format") {
    return v.is_object() && v.get_object().if_contains("type") && v.at("type").is_string() &&
           v.at("type").get_string() == "text";
  }
  if (field == "suffix") return v.is_string() && v.get_string().empty();
  if (field == "store" || field == "use_beam_search") return v.is_bool() && !v.get_bool();
  if (field == "modalities")
    return v.is_array() && v.get_array().size() == 1 && v.get_array()[0] == "text";
  if (field == "service_tier" || field == "verbosity" || field == "reasoning_effort")
    return v.is_string();
  return false;
}
bool has_neutral(std::string_view field) {
  for (std::string_view f :
       {"min_tokens", "best_of", "length_penalty", "tools", "functions", "tool_choice",
        "response_format", "suffix", "store", "use_beam_search", "modalities", "service_tier",
        "verbosity", "reasoning_effort"}) {
    if (f == field) return true;
  }
  return false;
}

const std::map<std::string, Reader, std::less<>>& readers() {
  using R = ApiRequest&;
  using F = const std::string&;
  using V = const json::value&;
  static const std::map<std::string, Reader, std::less<>> kReaders = {
      {"model", [](R r, F f, V v) { r.model = text(f, v); }},
      {"max_tokens",
       [](R r, F f, V v) { r.max_tokens = static_cast<uint32_t>(integer(f, v, 1, INT32_MAX)); }},
      {"temperature",
       [](R r, F f, V v) { r.temperature = static_cast<float>(number(f, v, 0, 2)); }},
      {"top_p",
       [](R r, F f, V v) {
         if ((r.top_p = static_cast<float>(number(f, v, 0, 1))) <= 0)
           wrong(f, v, "a number above 0, at most 1");
       }},
      {"top_k",
       [](R r, F f, V v) {
         r.top_k = static_cast<uint32_t>(std::max<int64_t>(0, integer(f, v, -1, INT32_MAX)));
       }},
      {"seed",
       [](R r, F f, V v) {
         r.seed = v.is_uint64() ? v.get_uint64()
                                : static_cast<uint64_t>(integer(f, v, INT64_MIN, INT64_MAX));
       }},
      {"n", [](R r, F f, V v) { r.n = static_cast<uint32_t>(integer(f, v, 1, kChoicesMax)); }},
      {"stop", read_stop},
      {"stream", [](R r, F f, V v) { r.stream = boolean(f, v); }},
      {"stream_options", read_stream_options},
      {"ignore_eos", [](R r, F f, V v) { r.ignore_eos = boolean(f, v); }},
      {"return_token_ids", [](R r, F f, V v) { r.return_token_ids = boolean(f, v); }},
      {"logprobs", read_logprobs},
      {"user", [](R r, F f, V v) { r.user = text(f, v).substr(0, kUserBytesMax); }},
      {"priority",
       [](R r, F f, V v) {
         r.priority = static_cast<int32_t>(integer(f, v, -kPriorityMax, kPriorityMax));
       }},
      {"timeout_ms",
       [](R r, F f, V v) { r.timeout_ms = static_cast<uint32_t>(integer(f, v, 1, kTimeoutMsMax)); }},
      {"presence_penalty",
       [](R r, F f, V v) { r.presence_penalty = static_cast<float>(number(f, v, -2, 2)); }},
      {"frequency_penalty",
       [](R r, F f, V v) { r.frequency_penalty = static_cast<float>(number(f, v, -2, 2)); }},
      {"repetition_penalty",
       [](R r, F f, V v) { r.repetition_penalty = static_cast<float>(number(f, v, 0.01, 10)); }},
      {"min_p", [](R r, F f, V v) { r.min_p = static_cast<float>(number(f, v, 0, 1)); }},
      {"logit_bias", read_logit_bias},
      {"safety_identifier", [](R, F f, V v) { text(f, v); }},
      {"prompt_cache_key", [](R, F f, V v) { text(f, v); }},
      {"metadata",
       [](R, F f, V v) {
         if (!v.is_object()) wrong(f, v, "an object");
       }},
      {"parallel_tool_calls", [](R, F f, V v) { boolean(f, v); }},
  };
  return kReaders;
}

/// The reader of a field that only one of the endpoints has.
Reader own_reader(bool chat, std::string_view field) {
  if (chat) {
    if (field == "messages") return read_messages;
    if (field == "max_completion_tokens") return readers().at("max_tokens");
    if (field == "top_logprobs") {
      return [](ApiRequest& r, const std::string& f, const json::value& v) {
        r.top_logprobs = static_cast<uint32_t>(integer(f, v, 0, kTopLogprobsMax));
      };
    }
    return nullptr;
  }
  if (field == "prompt") return read_prompt;
  if (field == "echo") {
    return
        [](ApiRequest& r, const std::string& f, const json::value& v) { r.echo = boolean(f, v); };
  }
  return nullptr;
}

ApiRequest parse(std::string_view body, bool chat) {
  json::error_code ec;
  json::parse_options options;
  options.max_depth = limits::kJsonDepth;
  json::monotonic_resource memory;
  json::value v = json::parse({body.data(), body.size()}, ec, &memory, options);
  if (ec)
    throw Wrong{ApiError{400, "the body is not valid JSON: " + ec.message(),
                         "invalid_request_error", "", "invalid_json"}};
  if (!v.is_object())
    throw Wrong{ApiError{400, "the body is " + kind_of(v) + ", expected an object",
                         "invalid_request_error", "", ""}};
  ApiRequest r;
  r.chat = chat;
  for (const auto& [key, value] : v.get_object()) {
    std::string field(key);
    Reader reader = own_reader(chat, field);
    if (!reader) {
      auto found = readers().find(field);
      if (found != readers().end()) reader = found->second;
    }
    if (!reader && !has_neutral(field)) {
      throw Wrong{ApiError{
          400, fmt::format("'{}' is not a known field of this endpoint", field.substr(0, 64)),
          "invalid_request_error", field.substr(0, 64), "unknown_parameter"}};
    }
    if (value.is_null()) continue;  // as if it were absent
    if (reader)
      reader(r, field, value);
    else if (!is_neutral(field, value)) {
      throw Wrong{ApiError{400, fmt::format("'{}' is not supported with this value", field),
                           "invalid_request_error", field, "unsupported_parameter"}};
    }
  }
  auto missing = [](const char* field) {
    throw Wrong{ApiError{400, fmt::format("'{}' is required", field), "invalid_request_error",
                         field, "missing_required_parameter"}};
  };
  if (chat && r.messages.empty()) missing("messages");
  if (!chat && r.prompts.empty()) missing("prompt");
  if (r.top_logprobs > 0 && !r.want_logprobs) {
    throw Wrong{ApiError{400, "'top_logprobs' needs 'logprobs': true", "invalid_request_error",
                         "top_logprobs", "invalid_value"}};
  }
  if (r.echo && r.want_logprobs) {
    throw Wrong{ApiError{400, "'echo' together with 'logprobs' is not supported",
                         "invalid_request_error", "echo", "unsupported_parameter"}};
  }
  if (r.include_usage && !r.stream) {
    throw Wrong{ApiError{400, "'stream_options' needs 'stream': true", "invalid_request_error",
                         "stream_options", "invalid_value"}};
  }
  return r;
}

std::variant<ApiRequest, ApiError> parse_caught(std::string_view body, bool chat) {
  try {
    return parse(body, chat);
  } catch (Wrong& w) {
    return std::move(w.error);
  } catch (const std::exception& e) {
    return ApiError{400, fmt::format("the request cannot be read: {}", e.what()),
                    "invalid_request_error", "", ""};
  }
}

}  // namespace

std::variant<ApiRequest, ApiError> parse_completion_request(std::string_view body) {
  return parse_caught(body, false);
}
std::variant<ApiRequest, ApiError> parse_chat_request(std::string_view body) {
  return parse_caught(body, true);
}

}  // namespace bp::rt
