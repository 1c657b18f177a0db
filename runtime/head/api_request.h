// ApiRequest: the body of a completion request, checked field by field. Pure; any thread.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace bp::rt {

/// An error in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.
struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;  // the field; empty: null
  std::string code;   // empty: null
  int64_t retry_after_ms = 0;  // 0: no Retry-After but the usual one of 503
};
std::string api_error_json(const ApiError& error);

using TokenList = std::vector<uint32_t>;
using ApiPrompt = std::variant<std::string, TokenList>;

struct ApiRequest {
  bool chat = false;
  std::string model;
  std::vector<ChatMessage> messages;  // chat
  std::vector<ApiPrompt> prompts;     // completion: one or more
  std::optional<uint32_t> max_tokens;
  float temperature = 1.0f;
  float top_p = 1.0f;
  uint32_t top_k = 0;  // 0: all
  std::optional<uint64_t> seed;
  uint32_t n = 1;
  std::vector<std::string> stop;
  bool stream = false;
  bool include_usage = false;
  bool ignore_eos = false;
  bool return_token_ids = false;
  bool echo = false;  // completion
  bool want_logprobs = false;
  int32_t priority = 0;      // lower goes first
  uint32_t timeout_ms = 0;   // 0: none
  std::string user;          // shares fairly with others, where no key says who it is
  float presence_penalty = 0, frequency_penalty = 0, repetition_penalty = 1, min_p = 0;
  std::vector<std::pair<uint32_t, float>> logit_bias;  // token id, bias
  uint32_t top_logprobs = 0;
};

/// What an endpoint takes: every field, checked; an unknown or wrong one is named in `param`.
std::variant<ApiRequest, ApiError> parse_completion_request(std::string_view body);
std::variant<ApiRequest, ApiError> parse_chat_request(std::string_view body);

}  // namespace bp::rt
