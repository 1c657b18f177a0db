// Error: a code from error_codes.def, a message for people, and what to do about it.
// Context is added on the way up (`with_context`); an error is logged once, where it is handled.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace bp {

enum class ErrorCode : uint8_t {
#define BP_ERROR(name, retriable, exit_code, remedy) name,
#include "engine/base/error_codes.def"
#undef BP_ERROR
};

/// Stable upper-case name on wires and in logs, such as "BP_DISK_FULL".
std::string_view error_name(ErrorCode code);
/// The code of a name; kInternal for an unknown one.
ErrorCode error_code_from_name(std::string_view name);
bool error_retriable(ErrorCode code);
int error_exit_code(ErrorCode code);
std::string_view error_remedy(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  std::string remedy;  // empty: the code's own remedy

  bool retriable() const { return error_retriable(code); }
  std::string_view what_to_do() const { return remedy.empty() ? error_remedy(code) : remedy; }
  /// "context: message"
  Error with_context(std::string_view context) &&;
  /// "BP_DISK_FULL: message (remedy)"
  std::string to_string() const;
};

/// Error from errno, mapped to the nearest code (ENOSPC -> kDiskFull, EACCES -> kPermission, ...).
Error errno_error(std::string_view what, int errno_value);

}  // namespace bp
