// BP_CHECK: a programmer error ends the process with file, line and text. Never for bad input.
#pragma once

namespace bp {
[[noreturn]] void check_failed(const char* file, int line, const char* expr);
}  // namespace bp

#define BP_CHECK(expr) \
  (static_cast<bool>(expr) ? (void)0 : ::bp::check_failed(__FILE__, __LINE__, #expr))
