#include <fcntl.h>
#include <sys/stat.h>
#include <zmq.h>

#include <cerrno>

#include "engine/base/files.h"
#include "engine/bus/bus.h"

namespace bp::bus {
namespace {
constexpr size_t kZ85Bytes = 40;
}

KeyPair make_key_pair() {
  char public_key[kZ85Bytes + 1], secret_key[kZ85Bytes + 1];
  BP_CHECK(zmq_curve_keypair(public_key, secret_key) == 0);
  KeyPair pair{std::string(public_key, kZ85Bytes), Secret(std::string(secret_key, kZ85Bytes))};
  explicit_bzero(secret_key, sizeof secret_key);
  return pair;
}

Result<KeyPair> load_or_make_key_pair(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) {
    if (errno != ENOENT) return errno_error("stat " + path, errno);
    KeyPair pair = make_key_pair();
    BP_TRY(write_file_atomic(path, pair.public_key + "\n" + pair.secret_key.reveal() + "\n", 0600));
    return pair;
  }
  if (!S_ISREG(st.st_mode) || (st.st_mode & 0077) != 0 || st.st_uid != ::getuid()) {
    return Error{ErrorCode::kPermission,
                 path + " must be a file of this user that nobody else can read (mode 0600)",
                 {}};
  }
  BP_ASSIGN(auto text, read_file(path, 4096));
  // Two lines: public key, secret key.
  if (text.size() < 2 * kZ85Bytes + 1 || text[kZ85Bytes] != '\n') {
    return Error{ErrorCode::kCorruptData, path + " does not hold two lines of 40 characters", {}};
  }
  KeyPair pair{text.substr(0, kZ85Bytes), Secret(text.substr(kZ85Bytes + 1, kZ85Bytes))};
  char derived[kZ85Bytes + 1];
  const bool fits = zmq_curve_public(derived, pair.secret_key.reveal().c_str()) == 0 &&
                    pair.public_key == std::string_view(derived, kZ85Bytes);
  explicit_bzero(text.data(), text.size());
  if (!fits) return Error{ErrorCode::kCorruptData, path + " holds two keys that are no pair", {}};
  return pair;
}

}  // namespace bp::bus
