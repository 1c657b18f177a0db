#include "runtime/head/api_request.h"

#include <boost/json.hpp>
#include <catch2/catch.hpp>

namespace bp::rt {
namespace {

ApiError refused(bool chat, const std::string& body) {
  auto r = chat ? parse_chat_request(body) : parse_completion_request(body);
  INFO(body);
  REQUIRE(std::holds_alternative<ApiError>(r));
  ApiError e = std::get<ApiError>(r);
  auto shape = boost::json::parse(api_error_json(e)).at("error").as_object();
  CHECK(shape.contains("message"));
  CHECK(shape.contains("type"));
  CHECK(shape.contains("param"));
  CHECK(shape.contains("code"));
  CHECK(e.status == 400);
  return e;
}
ApiRequest taken(bool chat, const std::string& body) {
  auto r = chat ? parse_chat_request(body) : parse_completion_request(body);
  INFO(body << (std::holds_alternative<ApiError>(r) ? std::get<ApiError>(r).message : ""));
  REQUIRE(std::holds_alternative<ApiRequest>(r));
  return std::get<ApiRequest>(r);
}
std::string chat_with(const std::string& more) {
  return R"({"messages":[{"role":"user","content":"x"}])" + more + "}";
}

}  // namespace

TEST_CASE("a wrong field is named", "[api]") {
  for (const auto& [more, param] : std::vector<std::pair<std::string, std::string>>{
           {R"(,"temperature":2.5)", "temperature"},
           {R"(,"temperature":"1")", "temperature"},
           {R"(,"top_p":0)", "top_p"},
           {R"(,"top_p":1.5)", "top_p"},
           {R"(,"top_k":-2)", "top_k"},
           {R"(,"max_tokens":0)", "max_tokens"},
           {R"(,"max_completion_tokens":1.5)", "max_completion_tokens"},
           {R"(,"n":0)", "n"},
           {R"(,"n":1000)", "n"},
           {R"(,"seed":"a")", "seed"},
           {R"(,"stop":[1])", "stop[0]"},
           {R"(,"stop":"")", "stop"},
           {R"(,"stream":1)", "stream"},
           {R"(,"stream":true,"stream_options":{"x":1})", "stream_options.x"},
           {R"(,"logprobs":1)", "logprobs"},
           {R"(,"stream_options":{"include_usage":true})", "stream_options"},
           {R"(,"top_logprobs":3)", "top_logprobs"},
           {R"(,"logprobs":true,"top_logprobs":21)", "top_logprobs"},
           {R"(,"colour":1)", "colour"},
           {R"(,"frequency_penalty":2.5)", "frequency_penalty"},
           {R"(,"presence_penalty":"a")", "presence_penalty"},
           {R"(,"repetition_penalty":0)", "repetition_penalty"},
           {R"(,"min_p":1.1)", "min_p"},
           {R"(,"priority":1.5)", "priority"},
           {R"(,"priority":100000)", "priority"},
           {R"(,"timeout_ms":0)", "timeout_ms"},
           {R"(,"logit_bias":[1])", "logit_bias"},
           {R"(,"logit_bias":{"x":1})", "logit_bias.x"},
           {R"(,"logit_bias":{"5":101})", "logit_bias.5"},
           {R"(,"best_of":2)", "best_of"},
           {R"(,"tools":[{}])", "tools"},
           {R"(,"model":1)", "model"},
           {R"(,"response_format":{"type":"json_object"})", "response_format"},
           {R"(,"prompt":"x")", "prompt"}}) {
    CHECK(refused(true, chat_with(more)).param == param);
  }
  for (const auto& [messages, param] : std::vector<std::pair<std::string, std::string>>{
           {"[]", "messages"},
           {"1", "messages"},
           {"[1]", "messages[0]"},
           {R"([{"role":"user"}])", "messages[0]"},
           {R"([{"role":"king","content":"x"}])", "messages[0].role"},
           {R"([{"role":"user","content":1}])", "messages[0].content"},
           {R"([{"role":"user","content":[{"type":"image_url"}]}])", "messages[0].content[0]"},
           {R"([{"role":"assistant","content":"","tool_calls":[{}]}])",
            "messages[0].tool_calls"}}) {
    CHECK(refused(true, R"({"messages":)" + messages + "}").param == param);
  }
  CHECK(refused(true, "{}").param == "messages");
  CHECK(refused(false, "{}").param == "prompt");
  for (const auto& [prompt, param] :
       std::vector<std::pair<std::string, std::string>>{{"[]", "prompt"},
                                                        {"1", "prompt"},
                                                        {"[1,\"a\"]", "prompt[1]"},
                                                        {"[[1],[-1]]", "prompt[1][0]"},
                                                        {"[[]]", "prompt[0]"},
                                                        {"[1.5]", "prompt[0]"},
                                                        {"[99999999999]", "prompt[0]"}}) {
    CHECK(refused(false, R"({"prompt":)" + prompt + "}").param == param);
  }
  CHECK(refused(false, R"({"prompt":"x","echo":true,"logprobs":1})").param == "echo");
}

TEST_CASE("bodies that are no JSON objects are refused", "[api]") {
  for (const std::string& body : std::vector<std::string>{
           "", "{", "[]", "nul", "{\"prompt\":\"\xff\"}", "{} {}", std::string(100'000, '['),
           "{\"a\":1,}", "1e999999", std::string("{\"prompt\":\"a\0\"}", 14)}) {
    refused(false, body);
    refused(true, body);
  }
}

TEST_CASE("fields are read", "[api]") {
  ApiRequest r = taken(
      true,
      chat_with(
          R"(,"max_completion_tokens":7,"temperature":0,"top_p":0.5,"top_k":-1,"seed":-5,"n":2,)"
          R"("stop":["a","b"],"stream":true,"stream_options":{"include_usage":true},"logprobs":true,)"
          R"("top_logprobs":2,"ignore_eos":true,"return_token_ids":true,"user":"u","tools":null,)"
          R"("presence_penalty":0.5,"frequency_penalty":-2,"repetition_penalty":1.1,"min_p":0.05,)"
          R"("priority":-7,"timeout_ms":2000,"logit_bias":{"12":-100,"3":1.5},"response_format":{"type":"text"})"));
  CHECK(r.chat);
  CHECK(*r.max_tokens == 7);
  CHECK(r.temperature == 0);
  CHECK(r.top_k == 0);
  CHECK(*r.seed == static_cast<uint64_t>(-5));
  CHECK(r.stop == std::vector<std::string>{"a", "b"});
  CHECK((r.stream && r.include_usage && r.want_logprobs && r.ignore_eos && r.return_token_ids));
  CHECK(r.top_logprobs == 2);
  CHECK(r.presence_penalty == 0.5f);
  CHECK(r.frequency_penalty == -2.0f);
  CHECK(r.repetition_penalty == 1.1f);
  CHECK(r.min_p == 0.05f);
  CHECK(r.priority == -7);
  CHECK(r.timeout_ms == 2000);
  CHECK(r.user == "u");
  CHECK(r.logit_bias == std::vector<std::pair<uint32_t, float>>{{12, -100.0f}, {3, 1.5f}});
  CHECK(taken(true, chat_with(R"(,"temperature":null,"stop":null)")).temperature == 1.0f);
  ApiRequest parts = taken(
      true,
      R"({"messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]})");
  CHECK(parts.messages[0].role == "system");
  CHECK(parts.messages[0].content == "ab");
  ApiRequest p = taken(false, R"({"prompt":[[1,2],[3]],"logprobs":0,"max_tokens":5.0})");
  CHECK(std::get<TokenList>(p.prompts[1]) == TokenList{3});
  CHECK(p.want_logprobs);
  CHECK(taken(false, R"({"prompt":[1,2]})").prompts.size() == 1);
  CHECK(taken(false, R"({"prompt":["a","b"]})").prompts.size() == 2);
  CHECK(*taken(false, R"({"prompt":"a","seed":18446744073709551615})").seed == UINT64_MAX);
}

}  // namespace bp::rt
