// TextStream: the tokens of one choice turned into text that may be shown: whole characters only,
// and nothing that could still become a stop string. Thread-confined.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace bp::rt {

class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops);
  /// Text that became certain by this token.
  std::string push(uint32_t token);
  /// What was held back, at the end of the sequence.
  std::string finish();
  /// A stop string was found: everything before it has been returned.
  bool stopped() const { return stopped_; }

 private:
  std::string settle(std::string text, bool at_end);
  const Tokenizer& tokenizer_;
  std::vector<std::string> stops_;
  Utf8Stream characters_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace bp::rt
