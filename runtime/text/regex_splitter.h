// RegexSplitter: cuts a text by a Unicode regex; matches and what lies between are the pieces. Any
// thread.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"

namespace bp::rt {

class RegexSplitter {
 public:
  /// kUnsupported names the place in `pattern`.
  static Result<std::unique_ptr<RegexSplitter>> compile(const std::string& pattern);
  ~RegexSplitter();
  /// `text` must be valid UTF-8. Appends pieces, none empty, that together are `text`. A place
  /// where the match limit is reached becomes a piece of one character.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Impl;
  explicit RegexSplitter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace bp::rt
