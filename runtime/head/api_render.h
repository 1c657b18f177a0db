// Answers of the completion endpoints as JSON, in OpenAI's shapes with vLLM's token id fields.
// Pure.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bp/v1/rank.pb.h"
#include "runtime/head/api_request.h"

namespace bp::rt {

/// What has come of one choice so far.
struct ChoiceState {
  uint32_t index = 0;
  size_t prompt = 0;  // which prompt it belongs to
  std::string text;
  std::vector<v1::SampledToken> tokens;  // all of them, a stop token too
  std::string finish_reason;             // empty: not finished
  size_t text_offset = 0;                // bytes of text before the tokens of the next chunk
};

struct AnswerContext {
  const ApiRequest* request = nullptr;
  const Tokenizer* tokenizer = nullptr;
  std::string id;       // "chatcmpl-..." or "cmpl-..."
  int64_t created = 0;  // Unix seconds
  std::string model;
  std::vector<TokenList> prompts;
  std::string chunk_head;  // of every chunk, up to the index of its choice; made by the first one
};

std::string render_answer(const AnswerContext& context, const std::vector<ChoiceState>& choices);
/// `text` as the inside of a JSON string; it must be valid UTF-8.
void append_json_text(std::string& out, std::string_view text);
/// One event's JSON. `text` and `tokens` are what is new; `first`: the first chunk of the choice.
std::string render_chunk(AnswerContext& context, const ChoiceState& choice,
                         const std::string& text, const std::vector<v1::SampledToken>& tokens,
                         bool first);
/// Opens a chat choice: role and empty content.
std::string render_role_chunk(const AnswerContext& context, const ChoiceState& choice);
std::string render_usage_chunk(const AnswerContext& context,
                               const std::vector<ChoiceState>& choices);

}  // namespace bp::rt
