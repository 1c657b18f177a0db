// UTF-8 checks.
#pragma once
#include <string>
#include <string_view>

namespace bp::rt {
bool is_valid_utf8(std::string_view text);
/// Each maximal broken sequence becomes one U+FFFD, as Python's errors="replace".
std::string valid_utf8(std::string_view text);
}  // namespace bp::rt
