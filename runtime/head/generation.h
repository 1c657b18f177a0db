// Generation: sequences as text. What the HTTP endpoints and the binary clients are both made of.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/head/engine_loop.h"
#include "runtime/text/tokenizer.h"

namespace bp::rt {

struct ChoiceRequest {
  std::vector<uint32_t> prompt;
  v1::Sampling sampling;  // `choice` set
  uint32_t max_tokens = 16;
  std::vector<std::string> stops;
  bool ignore_eos = false;
  int32_t priority = 0;
  std::string tenant;
  int64_t timeout_ms = 0;              // 0: none
  std::optional<size_t> same_prompt_as;  // an earlier choice whose prompt is the same
};

/// What one token (or the end) adds to a choice.
struct ChoiceDelta {
  size_t choice = 0;  // index into the requests
  std::string text;   // may be empty: held back until it is certain
  const v1::SampledToken* token = nullptr;
  bool last = false;
  std::string finish_reason;  // "stop", "length", "error"
  const Error* error = nullptr;
  int64_t retry_after_ms = 0;  // with kOverloaded
};

/// Starts the choices together. `sink` runs where the engine delivers and sees each choice to its end;
/// the ids are for EngineLoop::cancel. `tokenizer` must outlive the sequences. Errors of
/// EngineLoop::submit.
Result<std::vector<uint64_t>> start_generation(EngineLoop& engine, const Tokenizer& tokenizer,
                                               std::vector<ChoiceRequest> choices,
                                               std::function<void(const ChoiceDelta&)> sink);

/// Seed for a request that brings none.
uint64_t random_seed();

}  // namespace bp::rt
