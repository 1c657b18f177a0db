// OpenaiService: the application's port. Routes requests, turns them into generations, and answers.
#pragma once
#include <atomic>
#include <memory>
#include <string>

#include "runtime/head/engine_loop.h"
#include "runtime/head/http_server.h"
#include "runtime/text/tokenizer.h"

namespace bp::rt {

struct ServiceOptions {
  std::string model;    // the name in /v1/models
  int64_t created = 0;  // Unix seconds
  uint32_t max_context_tokens = 0;
};

class OpenaiService {
 public:
  /// Engine and tokenizer must outlive the HTTP server that calls this.
  OpenaiService(ServiceOptions options, EngineLoop& engine, const Tokenizer& tokenizer);
  /// HTTP thread.
  void handle(HttpRequest request, std::shared_ptr<HttpAnswer> answer);
  uint64_t requests() const { return requests_; }  // any thread

 private:
  void complete(bool chat, const HttpRequest& request, std::shared_ptr<HttpAnswer> answer);
  ServiceOptions options_;
  EngineLoop& engine_;
  const Tokenizer& tokenizer_;
  std::atomic<uint64_t> requests_{0};
};

/// /health, /health/live and /health/ready; false when the path is none of them.
bool answer_health(const EngineLoop& engine, const HttpRequest& request, HttpAnswer& answer);
/// Checks the method of a path: answers OPTIONS and 405 itself. true: go on.
bool allow_methods(const HttpRequest& request, HttpAnswer& answer, const char* methods);
void answer_not_found(const HttpRequest& request, HttpAnswer& answer);

}  // namespace bp::rt
