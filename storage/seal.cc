#include "storage/seal.h"

#include <sodium.h>
#include <sys/stat.h>

#include "engine/base/files.h"
#include "storage/varint.h"

namespace bp::storage {
namespace {

unsigned char* raw(std::string& s) { return reinterpret_cast<unsigned char*>(s.data()); }
const unsigned char* raw(const std::string& s) {
  return reinterpret_cast<const unsigned char*>(s.data());
}

std::string message(uint64_t number, int64_t wall_ms, const std::string& root) {
  std::string m = "bp-daemon journal seal 1";
  put_u64(number, m);
  put_u64(uint64_t(wall_ms), m);
  return m + root;
}

}  // namespace

SigningKey new_signing_key() {
  SigningKey key{std::string(crypto_sign_SECRETKEYBYTES, '\0'),
                 std::string(crypto_sign_PUBLICKEYBYTES, '\0')};
  crypto_sign_keypair(raw(key.public_key), raw(key.secret_key));
  return key;
}

Result<SigningKey> read_signing_key(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return errno_error("signing key " + path, errno);
  if ((st.st_mode & 077) != 0) {
    return Error{ErrorCode::kPermission, "others may read the signing key " + path,
                 "chmod 600 " + path};
  }
  BP_ASSIGN(std::string secret, read_file(path, 4096));
  if (secret.size() != crypto_sign_SECRETKEYBYTES) {
    return Error{
        ErrorCode::kCorruptData,
        "signing key " + path + ": found " + std::to_string(secret.size()) + " bytes, expected 64",
        {}};
  }
  SigningKey key{secret, std::string(crypto_sign_PUBLICKEYBYTES, '\0')};
  crypto_sign_ed25519_sk_to_pk(raw(key.public_key), raw(key.secret_key));
  return key;
}

Status write_signing_key(const std::string& path, const SigningKey& key) {
  return write_file_atomic(path, key.secret_key, 0600);
}

std::string sign_root(const SigningKey& key, uint64_t number, int64_t wall_ms,
                      const std::string& root) {
  const std::string m = message(number, wall_ms, root);
  std::string signature(crypto_sign_BYTES, '\0');
  crypto_sign_detached(raw(signature), nullptr, raw(m), m.size(), raw(key.secret_key));
  return signature;
}

bool seal_holds(uint64_t number, int64_t wall_ms, const std::string& root,
                const std::string& public_key, const std::string& signature) {
  if (public_key.size() != crypto_sign_PUBLICKEYBYTES || signature.size() != crypto_sign_BYTES)
    return false;
  const std::string m = message(number, wall_ms, root);
  return crypto_sign_verify_detached(raw(signature), raw(m), m.size(), raw(public_key)) == 0;
}

}  // namespace bp::storage
