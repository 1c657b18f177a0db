#include "runtime/head/text_stream.h"

#include <algorithm>

namespace bp::rt {

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops)
    : tokenizer_(tokenizer), stops_(std::move(stops)) {}

std::string TextStream::push(uint32_t token) {
  if (stopped_) return {};
  return settle(characters_.push(tokenizer_.token_bytes(token)), false);
}

std::string TextStream::finish() {
  if (stopped_) return {};
  return settle(characters_.finish(), true);
}

std::string TextStream::settle(std::string text, bool at_end) {
  held_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    return std::exchange(held_, {}).substr(0, first);
  }
  size_t keep = 0;  // the longest end that a stop string begins with
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep && !at_end; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) {
        keep = n;
        break;
      }
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

}  // namespace bp::rt
