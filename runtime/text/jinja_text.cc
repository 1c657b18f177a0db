#include "runtime/text/jinja_text.h"

#include <algorithm>
#include <cctype>

#include "runtime/text/jinja_value.h"

namespace bp::rt::jinja {
namespace {

constexpr size_t kTextMax = 64u << 20;

/// Upper or lower form of one UTF-8 character.
std::string change_case(std::string_view c, bool upper) {
  if (c.size() == 1) {
    auto b = static_cast<unsigned char>(c[0]);
    return std::string(1, static_cast<char>(upper ? std::toupper(b) : std::tolower(b)));
  }
  if (c.size() != 2) return std::string(c);
  uint32_t cp = static_cast<uint32_t>(c[0] & 31) << 6 | static_cast<uint32_t>(c[1] & 63);
  if (upper) {
    if (cp == 0xdf) return "SS";
    if (cp >= 0xe0 && cp <= 0xfe && cp != 0xf7)
      cp -= 32;
    else if (cp >= 0x3b1 && cp <= 0x3c9 && cp != 0x3c2)
      cp -= 32;
    else if (cp >= 0x430 && cp <= 0x44f)
      cp -= 32;
    else if (cp >= 0x450 && cp <= 0x45f)
      cp -= 80;
  } else {
    if (cp >= 0xc0 && cp <= 0xde && cp != 0xd7)
      cp += 32;
    else if (cp >= 0x391 && cp <= 0x3a9 && cp != 0x3a2)
      cp += 32;
    else if (cp >= 0x410 && cp <= 0x42f)
      cp += 32;
    else if (cp >= 0x400 && cp <= 0x40f)
      cp += 80;
  }
  return {static_cast<char>(0xc0 | cp >> 6), static_cast<char>(0x80 | (cp & 63))};
}

bool is_letter(std::string_view c) {
  return c.size() > 1 || std::isalpha(static_cast<unsigned char>(c[0]));
}

bool in_set(std::string_view c, const std::vector<std::string_view>& set) {
  if (set.empty()) {
    return (c.size() == 1 && std::isspace(static_cast<unsigned char>(c[0]))) || c == "\xc2\xa0" ||
           c == "\xe3\x80\x80" || c == "\xc2\x85" ||
           (c.size() == 3 && c >= "\xe2\x80\x80" && c <= "\xe2\x80\x8a") || c == "\xe2\x80\xa8" ||
           c == "\xe2\x80\xa9" || c == "\xe2\x80\xaf";
  }
  return std::find(set.begin(), set.end(), c) != set.end();
}

}  // namespace

std::string strip_text(std::string_view text, std::string_view chars, bool left, bool right) {
  auto points = code_points(text);
  auto set = code_points(chars);
  size_t from = 0, to = points.size();
  if (left)
    while (from < to && in_set(points[from], set)) ++from;
  if (right)
    while (to > from && in_set(points[to - 1], set)) --to;
  std::string out;
  for (size_t i = from; i < to; ++i) out += points[i];
  return out;
}

std::vector<std::string> split_on(std::string_view text, std::string_view separator,
                                  int64_t limit) {
  std::vector<std::string> out;
  if (separator.empty()) {
    size_t i = 0;
    auto blank = [&](size_t k) { return std::isspace(static_cast<unsigned char>(text[k])) != 0; };
    while (true) {
      while (i < text.size() && blank(i)) ++i;
      if (i >= text.size()) return out;
      size_t end = i;
      if (limit >= 0 && static_cast<int64_t>(out.size()) >= limit) {
        out.push_back(strip_text(text.substr(i), "", false, true));
        return out;
      }
      while (end < text.size() && !blank(end)) ++end;
      out.emplace_back(text.substr(i, end - i));
      i = end;
    }
  }
  size_t from = 0;
  for (;;) {
    size_t at = limit >= 0 && static_cast<int64_t>(out.size()) >= limit
                    ? std::string_view::npos
                    : text.find(separator, from);
    if (at == std::string_view::npos) break;
    out.emplace_back(text.substr(from, at - from));
    from = at + separator.size();
  }
  out.emplace_back(text.substr(from));
  return out;
}

std::vector<std::string> split_on_right(std::string_view text, std::string_view separator,
                                        int64_t limit) {
  if (separator.empty() || limit < 0) return split_on(text, separator, -1);
  std::vector<std::string> out;
  while (static_cast<int64_t>(out.size()) < limit) {
    size_t at = text.rfind(separator);
    if (at == std::string_view::npos) break;
    out.emplace_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  out.emplace_back(text);
  std::reverse(out.begin(), out.end());
  return out;
}

std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         int64_t count) {
  std::string out;
  auto room = [&] {
    if (out.size() > kTextMax) throw Failure("replace: more than 64 MiB");
  };
  if (from.empty()) {
    for (std::string_view c : code_points(text)) {
      if (count != 0) out += to, --count;
      out += c;
      room();
    }
    if (count != 0) out += to;
    return out;
  }
  size_t at = 0;
  while (count != 0) {
    size_t found = text.find(from, at);
    if (found == std::string_view::npos) break;
    out += text.substr(at, found - at);
    out += to;
    room();
    at = found + from.size();
    --count;
  }
  out += text.substr(at);
  return out;
}

std::string upper_text(std::string_view text) {
  std::string out;
  for (std::string_view c : code_points(text)) out += change_case(c, true);
  return out;
}
std::string lower_text(std::string_view text) {
  std::string out;
  for (std::string_view c : code_points(text)) out += change_case(c, false);
  return out;
}
std::string capitalize_text(std::string_view text) {
  std::string out;
  bool first = true;
  for (std::string_view c : code_points(text)) out += change_case(c, std::exchange(first, false));
  return out;
}
std::string title_text(std::string_view text) {
  std::string out;
  bool start = true;
  for (std::string_view c : code_points(text)) {
    out += change_case(c, start);
    start = !is_letter(c);
  }
  return out;
}

}  // namespace bp::rt::jinja
