#include "runtime/text/utf8.h"

#include <cstddef>

#include "runtime/text/tokenizer.h"

namespace bp::rt {
namespace {

constexpr const char* kReplacement = "\xef\xbf\xbd";

struct Character {
  size_t bytes;  // how many belong together
  enum { kValid, kInvalid, kUnfinished } state;
};

/// Unicode 15, table 3-7: well-formed byte sequences. Invalid ones are the maximal prefix of one.
Character next(std::string_view s) {
  auto b = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  unsigned char c = b(0);
  if (c < 0x80) return {1, Character::kValid};
  size_t n = c >= 0xc2 && c <= 0xdf   ? 2
             : c >= 0xe0 && c <= 0xef ? 3
             : c >= 0xf0 && c <= 0xf4 ? 4
                                      : 0;
  if (n == 0) return {1, Character::kInvalid};
  unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
  unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
  for (size_t i = 1; i < n; ++i) {
    if (i >= s.size()) return {i, Character::kUnfinished};
    if (b(i) < (i == 1 ? low : 0x80) || b(i) > (i == 1 ? high : 0xbf))
      return {i, Character::kInvalid};
  }
  return {n, Character::kValid};
}

}  // namespace

std::string valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    Character c = next(text);
    if (c.state == Character::kValid)
      out += text.substr(0, c.bytes);
    else
      out += kReplacement;
    text.remove_prefix(c.bytes);
  }
  return out;
}

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    Character c = next(text);
    if (c.state != Character::kValid) return false;
    text.remove_prefix(c.bytes);
  }
  return true;
}

std::string Utf8Stream::push(std::string_view bytes) {
  held_ += bytes;
  std::string_view rest = held_;
  std::string out;
  while (!rest.empty()) {
    Character c = next(rest);
    if (c.state == Character::kUnfinished) break;
    if (c.state == Character::kValid)
      out += rest.substr(0, c.bytes);
    else
      out += kReplacement;
    rest.remove_prefix(c.bytes);
  }
  held_ = std::string(rest);
  return out;
}

std::string Utf8Stream::finish() {
  std::string out = valid_utf8(held_);
  held_.clear();
  return out;
}

}  // namespace bp::rt
