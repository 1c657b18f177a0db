// One streamed chat completion from a deployment's OpenAI-compatible endpoint.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"

namespace bp::cli {

struct GenerateOptions {
  std::string prompt;
  std::string system;  // empty: none
  uint32_t max_tokens = 256;
  double temperature = 0;  // greedy
  std::optional<double> top_p;
  std::optional<uint32_t> top_k;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
};

struct Generated {
  std::string finish_reason;
  uint64_t prompt_tokens = 0;
  uint64_t completion_tokens = 0;
};

/// POSTs to ENDPOINT/v1/chat/completions. `on_text` gets each piece of the answer, `on_event` (may
/// be empty) each event's JSON. kUnavailable: nobody listens there or the stream broke off;
/// kHttpStatus: the server's own words; kDeadlineExceeded after 120 s without a byte.
Result<Generated> generate(const std::string& endpoint, const std::string& model,
                           const GenerateOptions& options,
                           const std::function<void(std::string_view)>& on_text,
                           const std::function<void(std::string_view)>& on_event);

}  // namespace bp::cli
