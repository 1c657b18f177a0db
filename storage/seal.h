// Seals: Ed25519 signatures (RFC 8032, by libsodium) over roots of the log. One seal vouches for
// every commit before it. Message: "bp-daemon journal seal 1", number, wall_ms (8 bytes each,
// little endian), root. Thread: any.
#pragma once
#include <cstdint>
#include <string>

#include "engine/base/result.h"

namespace bp::storage {

struct SigningKey {
  std::string secret_key;  // 64 bytes
  std::string public_key;  // 32 bytes
};
SigningKey new_signing_key();
/// A file of 64 bytes that only its owner may read. kPermission, kCorruptData.
Result<SigningKey> read_signing_key(const std::string& path);
Status write_signing_key(const std::string& path, const SigningKey& key);

std::string sign_root(const SigningKey& key, uint64_t number, int64_t wall_ms,
                      const std::string& root);
bool seal_holds(uint64_t number, int64_t wall_ms, const std::string& root,
                const std::string& public_key, const std::string& signature);

}  // namespace bp::storage
