#include "engine/base/error.h"

#include <cerrno>
#include <cstring>

namespace bp {
namespace {

struct Info {
  const char* camel;
  bool retriable;
  int exit_code;
  const char* remedy;
};

constexpr Info kInfos[] = {
#define BP_ERROR(name, retriable, exit_code, remedy) {#name, retriable, exit_code, remedy},
#include "engine/base/error_codes.def"
#undef BP_ERROR
};
constexpr size_t kCount = sizeof(kInfos) / sizeof(kInfos[0]);

// "kDiskFull" -> "BP_DISK_FULL"
std::string wire_name(const char* camel) {
  std::string out = "BP";
  for (const char* p = camel + 1; *p; ++p) {
    if (*p >= 'A' && *p <= 'Z') out += '_';
    out += static_cast<char>(*p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p);
  }
  return out;
}

const std::string* wire_names() {
  static const std::string* const names = [] {
    auto* out = new std::string[kCount];
    for (size_t i = 0; i < kCount; ++i) out[i] = wire_name(kInfos[i].camel);
    return out;
  }();
  return names;
}

const Info& info(ErrorCode code) { return kInfos[static_cast<size_t>(code)]; }

}  // namespace

std::string_view error_name(ErrorCode code) { return wire_names()[static_cast<size_t>(code)]; }

ErrorCode error_code_from_name(std::string_view name) {
  for (size_t i = 0; i < kCount; ++i) {
    if (wire_names()[i] == name) return static_cast<ErrorCode>(i);
  }
  return ErrorCode::kInternal;
}

bool error_retriable(ErrorCode code) { return info(code).retriable; }
int error_exit_code(ErrorCode code) { return info(code).exit_code; }
std::string_view error_remedy(ErrorCode code) { return info(code).remedy; }

Error Error::with_context(std::string_view context) && {
  message = std::string(context) + ": " + message;
  return std::move(*this);
}

std::string Error::to_string() const {
  return std::string(error_name(code)) + ": " + message + " (" + std::string(what_to_do()) + ")";
}

Error errno_error(std::string_view what, int errno_value) {
  ErrorCode code = ErrorCode::kIo;
  switch (errno_value) {
    case ENOSPC: case EDQUOT: code = ErrorCode::kDiskFull; break;
    case EACCES: case EPERM: code = ErrorCode::kPermission; break;
    case ENOENT: code = ErrorCode::kNotFound; break;
    case EEXIST: code = ErrorCode::kAlreadyExists; break;
    case EADDRINUSE: code = ErrorCode::kPortBusy; break;
    case ETIMEDOUT: code = ErrorCode::kDeadlineExceeded; break;
    case ECONNREFUSED: case ECONNRESET: case EPIPE: code = ErrorCode::kPeerLost; break;
    default: break;
  }
  return {code, std::string(what) + ": " + std::strerror(errno_value), {}};
}

}  // namespace bp
