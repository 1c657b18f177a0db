// Tokenizer and chat template of a model, from its GGUF file or tokenizer.json +
// tokenizer_config.json.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/result.h"

namespace bp::rt {

struct ChatMessage {
  std::string role;
  std::string content;
};

class Tokenizer {
 public:
  /// `path`: a .gguf file, or a folder with tokenizer.json or one .gguf file. kNotFound,
  /// kCorruptData, kUnsupported (names the tokenizer model).
  static Result<std::unique_ptr<Tokenizer>> open(const std::string& path);
  virtual ~Tokenizer() = default;
  /// Special tokens in the text are recognised when parse_special. add_bos follows the model when
  /// add_special. Any thread.
  virtual std::vector<uint32_t> encode(std::string_view text, bool add_special,
                                       bool parse_special) const = 0;
  /// Raw bytes of a token: may end inside a UTF-8 character. Empty for control tokens unless
  /// `special`.
  virtual std::string token_bytes(uint32_t token, bool special = false) const = 0;
  virtual std::string decode(const std::vector<uint32_t>& tokens, bool special = false) const = 0;
  virtual uint32_t vocab_size() const = 0;
  virtual const std::vector<uint32_t>& eos_tokens() const = 0;
  /// Bytes of the longest token: `n` tokens never stand for more than n times as many.
  virtual size_t longest_token_bytes() const = 0;
  /// The model's chat template over messages; kUnsupported when the model has none,
  /// kInvalidArgument with the template's own words when it refuses.
  virtual Result<std::string> apply_chat_template(const std::vector<ChatMessage>& messages,
                                                  bool add_generation_prompt) const = 0;
};

/// Turns token bytes into valid UTF-8 text piece by piece, holding back an unfinished character.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);
  std::string finish();  // what was held back, invalid bytes as U+FFFD
 private:
  std::string held_;
};

}  // namespace bp::rt
