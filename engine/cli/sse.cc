#include "engine/cli/sse.h"

namespace bp::cli {
namespace {
constexpr size_t kEventBytes = 1 << 20;
}  // namespace

bool SseParser::line(std::string_view text) {
  if (!text.empty() && text.back() == '\r') text.remove_suffix(1);
  if (text.empty()) {
    const bool go_on = !has_data_ || on_data_(data_);
    data_.clear();
    has_data_ = false;
    return go_on;
  }
  if (text.substr(0, 5) != "data:") return true;
  text.remove_prefix(5);
  if (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  if (has_data_) data_ += '\n';
  data_ += text;
  has_data_ = true;
  return data_.size() <= kEventBytes;
}

bool SseParser::feed(std::string_view bytes) {
  partial_ += bytes;
  size_t begin = 0;
  for (size_t end; (end = partial_.find('\n', begin)) != std::string::npos; begin = end + 1) {
    if (!line(std::string_view(partial_).substr(begin, end - begin))) return false;
  }
  partial_.erase(0, begin);
  return partial_.size() <= kEventBytes;
}

}  // namespace bp::cli
