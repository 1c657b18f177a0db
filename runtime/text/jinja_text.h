// Python's string operations over UTF-8. Case is changed for ASCII, Latin-1, Greek and Cyrillic
// letters.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bp::rt::jinja {

/// `chars` empty: whitespace.
std::string strip_text(std::string_view text, std::string_view chars, bool left, bool right);
/// `separator` empty: runs of whitespace. At most `limit` cuts when not negative.
std::vector<std::string> split_on(std::string_view text, std::string_view separator, int64_t limit);
std::vector<std::string> split_on_right(std::string_view text, std::string_view separator,
                                        int64_t limit);
std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         int64_t count);
std::string upper_text(std::string_view text);
std::string lower_text(std::string_view text);
std::string capitalize_text(std::string_view text);
std::string title_text(std::string_view text);

}  // namespace bp::rt::jinja
