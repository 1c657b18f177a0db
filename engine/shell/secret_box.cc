#include "engine/shell/secret_box.h"

#include <sodium.h>
#include <sys/stat.h>

#include <cerrno>

#include "engine/base/files.h"

namespace bp::shell {
namespace {
constexpr size_t kNonce = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES;
constexpr size_t kTag = crypto_aead_xchacha20poly1305_ietf_ABYTES;
static_assert(SecretBox::kKeyBytes == crypto_aead_xchacha20poly1305_ietf_KEYBYTES);

const unsigned char* bytes(const std::string& s) {
  return reinterpret_cast<const unsigned char*>(s.data());
}
unsigned char* bytes(std::string& s) { return reinterpret_cast<unsigned char*>(s.data()); }
std::string label(const std::string& run_id, const std::string& name) {
  return run_id + "\n" + name;
}
}  // namespace

SecretBox::SecretBox(Secret key) : key_(std::move(key)) {
  BP_CHECK(sodium_init() >= 0);
  BP_CHECK(key_.reveal().size() == kKeyBytes);
}

std::string SecretBox::seal(const std::string& run_id, const std::string& name,
                            const Secret& value) const {
  const std::string ad = label(run_id, name);
  const std::string& plain = value.reveal();
  std::string out(kNonce + plain.size() + kTag, '\0');
  randombytes_buf(out.data(), kNonce);
  crypto_aead_xchacha20poly1305_ietf_encrypt(bytes(out) + kNonce, nullptr, bytes(plain),
                                             plain.size(), bytes(ad), ad.size(), nullptr,
                                             bytes(out), bytes(key_.reveal()));
  return out;
}

Result<Secret> SecretBox::open(const std::string& run_id, const std::string& name,
                               const std::string& sealed) const {
  const std::string ad = label(run_id, name);
  const Error wrong{ErrorCode::kCorruptData,
                    "secret " + name + " of run " + run_id + " cannot be opened",
                    "Restore keys/secrets.key that belongs to this journal"};
  if (sealed.size() < kNonce + kTag) return wrong;
  std::string plain(sealed.size() - kNonce - kTag, '\0');
  if (crypto_aead_xchacha20poly1305_ietf_decrypt(
          bytes(plain), nullptr, nullptr, bytes(sealed) + kNonce, sealed.size() - kNonce, bytes(ad),
          ad.size(), bytes(sealed), bytes(key_.reveal())) != 0) {
    return wrong;
  }
  return Secret(std::move(plain));
}

Result<Secret> load_or_make_secrets_key(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) {
    if (errno != ENOENT) return errno_error("stat " + path, errno);
    BP_CHECK(sodium_init() >= 0);
    std::string key(SecretBox::kKeyBytes, '\0');
    randombytes_buf(key.data(), key.size());
    BP_TRY(write_file_atomic(path, key, 0600));
    return Secret(std::move(key));
  }
  if (!S_ISREG(st.st_mode) || (st.st_mode & 0077) != 0) {
    return Error{
        ErrorCode::kPermission, path + " must be a file that nobody else can read (mode 0600)", {}};
  }
  BP_ASSIGN(auto key, read_file(path, 4096));
  if (key.size() != SecretBox::kKeyBytes) {
    return Error{ErrorCode::kCorruptData,
                 path + " holds " + std::to_string(key.size()) + " bytes; expected " +
                     std::to_string(SecretBox::kKeyBytes),
                 {}};
  }
  return Secret(std::move(key));
}

}  // namespace bp::shell
