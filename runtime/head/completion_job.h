// CompletionJob: one completion request from its checked body to the end of its answer. Its state
// belongs to the thread on which the engine delivers once it is started.
#pragma once
#include <memory>

#include "runtime/head/api_render.h"
#include "runtime/head/generation.h"
#include "runtime/head/http_server.h"

namespace bp::rt {

struct JobOptions {
  std::string model;
  uint32_t max_context_tokens = 0;
  std::string tenant;  // whoever sends the request, by its key; empty: by the field `user`
};

/// Tokenizes, submits, and answers or streams. Every failure is answered too. HTTP thread.
void start_completion(ApiRequest request, const JobOptions& options, EngineLoop& engine,
                      const Tokenizer& tokenizer, std::shared_ptr<HttpAnswer> answer);

void answer_error(HttpAnswer& answer, const ApiError& error);

}  // namespace bp::rt
