#include "engine/base/secret.h"

#include <sodium.h>
#include <sys/resource.h>

namespace bp {

Secret::~Secret() {
  if (!value_.empty()) sodium_memzero(value_.data(), value_.size());
}

std::string redact(std::string_view text) {
  std::string out(text);
  // A PAR is https://host/p/<token>/n/...: the token runs to the next '/', quote or space.
  for (size_t at = 0; (at = out.find("/p/", at)) != std::string::npos;) {
    size_t begin = at + 3;
    size_t end = out.find_first_of("/\"' \n\t?&", begin);
    if (end == std::string::npos) end = out.size();
    out.replace(begin, end - begin, "***");
    at = begin + 3;
  }
  for (size_t at = 0; (at = out.find("://", at)) != std::string::npos;) {
    size_t begin = at + 3;
    size_t end = out.find_first_of("/\"' \n\t", begin);
    if (end == std::string::npos) end = out.size();
    size_t user = out.rfind('@', end);
    if (user != std::string::npos && user >= begin && user < end) {
      out.replace(begin, user - begin, "***");
    }
    at = begin;
  }
  return out;
}

void disable_core_dumps() {
  // One byte: too little for any file, and the only limit that also stops dumps into a pipe
  // (core(5)).
  rlimit one{1, 1}, none{0, 0};
  if (setrlimit(RLIMIT_CORE, &one) != 0) setrlimit(RLIMIT_CORE, &none);
}

}  // namespace bp
