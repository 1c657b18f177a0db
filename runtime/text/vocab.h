// Vocab: what a tokenizer is made of, read from a GGUF file or from tokenizer.json and its
// neighbours.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/result.h"

namespace bp::rt {

enum class TokenType : uint8_t { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct VocabEntry {
  std::string bytes;  // what the token stands for; the name of a control token
  TokenType type = TokenType::kNormal;
  float score = 0;  // kScores only: a higher one is merged first
};

struct Vocab {
  enum class Model {
    kByteBpe,  // GPT-2: text split by regexes, bytes merged by rank
    kScores,   // SentencePiece BPE: characters merged by score, byte tokens for what is left
  };
  Model model = Model::kByteBpe;
  std::vector<VocabEntry> entries;
  /// kByteBpe: pairs of token bytes, the first merged first.
  std::vector<std::pair<std::string, std::string>> merges;
  /// kByteBpe: regexes applied one after the other; matches and what lies between become pieces.
  std::vector<std::string> split_patterns;
  bool ignore_merges = false;     // a piece that is a token is that token
  bool add_space_prefix = false;  // a space before the text
  bool add_bos = false;
  bool add_eos = false;
  int64_t bos = -1;
  int64_t eos = -1;
  std::vector<uint32_t> stop_tokens;
  std::string chat_template;  // empty: none
};

/// Bounds: every id below entries.size(), at most 4,000,000 entries. kCorruptData names key, found,
/// expected; kUnsupported names the tokenizer model or pre-tokenizer.
Result<Vocab> vocab_from_gguf(const std::string& path);
/// `folder` holds tokenizer.json, perhaps tokenizer_config.json, generation_config.json,
/// chat_template.jinja.
Result<Vocab> vocab_from_json(const std::string& folder);

/// Regexes of a `tokenizer.ggml.pre` name; kUnsupported lists the known ones.
Result<std::vector<std::string>> split_patterns_of(const std::string& pre);
extern const char* const kGpt2Pattern;

/// GPT-2's printable spelling of bytes back to bytes; false when a character is not of that
/// alphabet.
bool bytes_from_gpt2(std::string_view spelled, std::string& out);

}  // namespace bp::rt
