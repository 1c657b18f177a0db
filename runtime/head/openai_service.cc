#include "runtime/head/openai_service.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <string_view>

#include "runtime/head/completion_job.h"

namespace bp::rt {

bool allow_methods(const HttpRequest& request, HttpAnswer& answer, const char* methods) {
  std::string_view list = methods;
  if (request.method == "OPTIONS") {
    answer.send({204, "", "", {{"Allow", std::string(methods) + ", OPTIONS"}}});
    return false;
  }
  if (list.find(request.method) != std::string_view::npos) return true;
  HttpResponse r{405, "application/json", "", {{"Allow", std::string(methods) + ", OPTIONS"}}};
  r.body = api_error_json({405,
                           fmt::format("{} does not take {}", request.path.substr(0, 128),
                                       request.method.substr(0, 16)),
                           "invalid_request_error", "", "method_not_allowed"});
  answer.send(std::move(r));
  return false;
}

void answer_not_found(const HttpRequest& request, HttpAnswer& answer) {
  answer_error(answer, {404, fmt::format("no such path: {}", request.path.substr(0, 128)),
                        "invalid_request_error", "", "not_found"});
}

bool answer_health(const EngineLoop& engine, const HttpRequest& request, HttpAnswer& answer) {
  if (request.path != "/health" && request.path != "/health/live" &&
      request.path != "/health/ready")
    return false;
  if (!allow_methods(request, answer, "GET, HEAD")) return true;
  if (request.path == "/health/live") {
    answer.send({200, "application/json", R"({"status":"live"})", {}});
    return true;
  }
  bool ready = engine.ready();
  HttpResponse r;
  r.status = ready ? 200 : 503;
  const char* why = ready               ? "ready"
                    : engine.draining() ? "draining"
                    : engine.serving()  ? "no recent canary token"
                                        : "ranks are not serving";
  r.body = boost::json::serialize(
      boost::json::object{{"status", why}, {"last_token_age_ms", engine.last_token_age_ms()}});
  if (!ready) r.headers.emplace_back("Retry-After", "1");
  answer.send(std::move(r));
  return true;
}

namespace {

/// A key as the scheduler may know it: not the key. Empty without one.
std::string tenant_of(const std::string& authorization) {
  if (authorization.empty()) return {};
  return fmt::format("key-{:016x}", std::hash<std::string>{}(authorization));
}

}  // namespace

OpenaiService::OpenaiService(ServiceOptions options, EngineLoop& engine, const Tokenizer& tokenizer)
    : options_(std::move(options)), engine_(engine), tokenizer_(tokenizer) {}

void OpenaiService::handle(HttpRequest request, std::shared_ptr<HttpAnswer> answer) {
  ++requests_;
  if (request.path == "/v1/chat/completions") return complete(true, request, std::move(answer));
  if (request.path == "/v1/completions") return complete(false, request, std::move(answer));
  if (answer_health(engine_, request, *answer)) return;
  namespace json = boost::json;
  json::object model{{"id", options_.model},        {"object", "model"},
                     {"created", options_.created}, {"owned_by", "bp-daemon"},
                     {"root", options_.model},      {"max_model_len", options_.max_context_tokens}};
  if (request.path == "/v1/models") {
    if (!allow_methods(request, *answer, "GET, HEAD")) return;
    json::object list{{"object", "list"}, {"data", json::array{std::move(model)}}};
    return answer->send({200, "application/json", json::serialize(list), {}});
  }
  if (request.path == "/v1/models/" + options_.model) {
    if (!allow_methods(request, *answer, "GET, HEAD")) return;
    return answer->send({200, "application/json", json::serialize(model), {}});
  }
  answer_not_found(request, *answer);
}

void OpenaiService::complete(bool chat, const HttpRequest& request,
                             std::shared_ptr<HttpAnswer> answer) {
  if (!allow_methods(request, *answer, "POST")) return;
  auto parsed = chat ? parse_chat_request(request.body) : parse_completion_request(request.body);
  if (auto* error = std::get_if<ApiError>(&parsed)) return answer_error(*answer, *error);
  ApiRequest& body = std::get<ApiRequest>(parsed);
  if (!body.model.empty() && body.model != options_.model) {
    return answer_error(*answer,
                        {404,
                         fmt::format("The model '{}' does not exist; this endpoint serves '{}'",
                                     body.model.substr(0, 128), options_.model),
                         "invalid_request_error", "model", "model_not_found"});
  }
  start_completion(std::move(body),
                   {options_.model, options_.max_context_tokens, tenant_of(request.authorization)},
                   engine_, tokenizer_, std::move(answer));
}

}  // namespace bp::rt
