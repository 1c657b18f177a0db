#include "engine/base/ids.h"

#include <sodium.h>

namespace bp {
namespace {
void need_sodium() {
  static const int ready = sodium_init();
  BP_CHECK(ready >= 0);
}
std::string hex(const unsigned char* data, size_t n) {
  static const char* digits = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < n; ++i) {
    out += digits[data[i] >> 4];
    out += digits[data[i] & 15];
  }
  return out;
}
}  // namespace

std::string random_id(std::string_view prefix) {
  need_sodium();
  static const char* alphabet = "0123456789abcdefghijklmnopqrstuvwxyz";
  std::string out(prefix);
  out += '-';
  for (int i = 0; i < 16; ++i) out += alphabet[randombytes_uniform(36)];
  return out;
}

std::string random_hex(size_t bytes) {
  need_sodium();
  std::string raw(bytes, '\0');
  randombytes_buf(raw.data(), raw.size());
  return hex(reinterpret_cast<const unsigned char*>(raw.data()), raw.size());
}

std::string sha256_hex(std::string_view data) {
  need_sodium();
  unsigned char out[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(out, reinterpret_cast<const unsigned char*>(data.data()), data.size());
  return hex(out, sizeof out);
}

std::string content_hash(std::string_view data) {
  need_sodium();
  unsigned char out[crypto_generichash_BYTES];
  crypto_generichash(out, sizeof out, reinterpret_cast<const unsigned char*>(data.data()),
                     data.size(), nullptr, 0);
  return hex(out, sizeof out);
}

Result<std::string> canonical_name(std::string_view name) {
  std::string out;
  for (char c : name) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (alnum) out += c;
    else if (!out.empty() && out.back() != '-') out += '-';
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  if (!out.empty() && out[0] >= '0' && out[0] <= '9') out = "d-" + out;
  if (out.size() > 53) out.resize(53);
  while (!out.empty() && out.back() == '-') out.pop_back();
  if (out.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "name \"" + std::string(name) + "\" holds no letter or digit", {}};
  }
  return out;
}
}  // namespace bp
