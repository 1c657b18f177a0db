#include "engine/cli/generate.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <boost/json.hpp>
#include <memory>

#include "engine/cli/sse.h"

namespace bp::cli {
namespace {

namespace json = boost::json;

constexpr size_t kErrorBytes = 64 << 10;
constexpr long kConnectMs = 5'000;
constexpr long kSilentSeconds = 120;

std::string request_body(const std::string& model, const GenerateOptions& o) {
  json::array messages;
  if (!o.system.empty()) messages.push_back({{"role", "system"}, {"content", o.system}});
  messages.push_back({{"role", "user"}, {"content", o.prompt}});
  json::object body{{"model", model},
                    {"messages", std::move(messages)},
                    {"max_tokens", o.max_tokens},
                    {"stream", true},
                    {"stream_options", {{"include_usage", true}}}};
  body["temperature"] = o.temperature;
  if (o.top_p) body["top_p"] = *o.top_p;
  if (o.top_k) body["top_k"] = *o.top_k;
  if (o.seed) body["seed"] = *o.seed;
  if (!o.stop.empty()) body["stop"] = json::value_from(o.stop);
  return json::serialize(body);
}

const json::value* member(const json::value* v, const char* key) {
  return v && v->is_object() ? v->get_object().if_contains(key) : nullptr;
}

uint64_t count_of(const json::value* v) {
  return v && v->is_int64() && v->get_int64() > 0 ? v->get_int64() : 0;
}

/// The stream as it arrives.
struct Answer {
  const std::function<void(std::string_view)>& on_text;
  const std::function<void(std::string_view)>& on_event;
  CURL* curl = nullptr;
  Generated result;
  bool done = false;
  std::string error;  // body of an answer that is no 200, or what the stream said went wrong
  SseParser sse{[this](std::string_view data) { return event(data); }};

  bool event(std::string_view data) {
    if (data == "[DONE]") {
      done = true;
      return true;
    }
    boost::system::error_code ec;
    const json::value v = json::parse(json::string_view(data.data(), data.size()), ec);
    if (ec) {
      error = "an event that is no JSON";
      return false;
    }
    if (const json::value* e = member(&v, "error")) {
      error = json::serialize(*e);
      return false;
    }
    if (on_event) on_event(data);
    if (const json::value* usage = member(&v, "usage")) {
      result.prompt_tokens = count_of(member(usage, "prompt_tokens"));
      result.completion_tokens = count_of(member(usage, "completion_tokens"));
    }
    const json::value* choices = member(&v, "choices");
    if (!choices || !choices->is_array() || choices->get_array().empty()) return true;
    const json::value* choice = &choices->get_array()[0];
    const json::value* text = member(member(choice, "delta"), "content");
    if (text && text->is_string()) on_text(std::string_view(text->get_string()));
    const json::value* reason = member(choice, "finish_reason");
    if (reason && reason->is_string()) result.finish_reason = std::string(reason->get_string());
    return true;
  }
};

size_t on_body(char* data, size_t size, size_t count, void* self) {
  auto& answer = *static_cast<Answer*>(self);
  const size_t bytes = size * count;
  long status = 0;
  curl_easy_getinfo(answer.curl, CURLINFO_RESPONSE_CODE, &status);
  if (status != 200) {
    answer.error.append(data,
                        std::min(bytes, kErrorBytes - std::min(kErrorBytes, answer.error.size())));
    return bytes;
  }
  return answer.sse.feed({data, bytes}) ? bytes : 0;
}

Status check_outcome(const Answer& a, CURLcode code, const std::string& url) {
  long status = 0;
  curl_easy_getinfo(a.curl, CURLINFO_RESPONSE_CODE, &status);
  if (status != 0 && status != 200) {
    return Error{ErrorCode::kHttpStatus, fmt::format("{} answered {}: {}", url, status, a.error),
                 "See the server's words; `bp show ID` tells the deployment's state"};
  }
  if (!a.error.empty())
    return Error{ErrorCode::kUnavailable, fmt::format("{}: {}", url, a.error), {}};
  if (code == CURLE_OPERATION_TIMEDOUT) {
    return Error{ErrorCode::kDeadlineExceeded,
                 fmt::format("waited {} s for {} to send a byte", kSilentSeconds, url),
                 {}};
  }
  if (code != CURLE_OK)
    return Error{ErrorCode::kUnavailable, fmt::format("{}: {}", url, curl_easy_strerror(code)), {}};
  if (!a.done)
    return Error{
        ErrorCode::kUnavailable, fmt::format("{} ended the stream before its end", url), {}};
  return {};
}

}  // namespace

Result<Generated> generate(const std::string& endpoint, const std::string& model,
                           const GenerateOptions& options,
                           const std::function<void(std::string_view)>& on_text,
                           const std::function<void(std::string_view)>& on_event) {
  static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);
  std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(
      ready == CURLE_OK ? curl_easy_init() : nullptr, &curl_easy_cleanup);
  if (!curl) return Error{ErrorCode::kInternal, "libcurl did not start", {}};
  const std::string url = endpoint + "/v1/chat/completions";
  const std::string body = request_body(model, options);
  std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(
      curl_slist_append(nullptr, "Content-Type: application/json"), &curl_slist_free_all);
  Answer answer{on_text, on_event};
  answer.curl = curl.get();
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl.get(), CURLOPT_NOPROXY, "*");
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_CONNECTTIMEOUT_MS, kConnectMs);
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_TIME, kSilentSeconds);
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
  curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, body.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, &on_body);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &answer);
  const CURLcode code = curl_easy_perform(curl.get());
  BP_TRY(check_outcome(answer, code, url));
  return answer.result;
}

}  // namespace bp::cli
