// ChatTemplate: a model's chat template (a Jinja program) turned into prompts. Immutable; any
// thread.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "runtime/text/tokenizer.h"

namespace bp::rt {

struct ChatTemplateTokens {
  std::string bos;  // text of the special tokens, empty when the model has none
  std::string eos;
};

class ChatTemplate {
 public:
  /// kCorruptData names line and place. Templates above 1 MiB are refused (kTooLarge).
  static Result<std::unique_ptr<ChatTemplate>> parse(const std::string& source,
                                                     ChatTemplateTokens tokens);
  ~ChatTemplate();
  /// kInvalidArgument: the template refused (raise_exception, its own words) or cannot handle the
  /// messages.
  Result<std::string> render(const std::vector<ChatMessage>& messages,
                             bool add_generation_prompt) const;
  /// The same over a JSON object of template variables ("messages", "tools", ...). For tests and
  /// tools.
  Result<std::string> render_json(std::string_view variables_json) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace bp::rt
