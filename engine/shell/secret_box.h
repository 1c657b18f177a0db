// Seals secrets before they reach the store: XChaCha20-Poly1305 with a random nonce, bound to run
// and name, so that a sealed row cannot be moved to another run. Thread: any.
#pragma once
#include <string>

#include "engine/base/result.h"
#include "engine/base/secret.h"

namespace bp::shell {

class SecretBox {
 public:
  static constexpr size_t kKeyBytes = 32;
  /// `key`: exactly kKeyBytes.
  explicit SecretBox(Secret key);
  std::string seal(const std::string& run_id, const std::string& name, const Secret& value) const;
  /// kCorruptData: sealed under another key, for another run or name, or damaged.
  Result<Secret> open(const std::string& run_id, const std::string& name,
                      const std::string& sealed) const;

 private:
  Secret key_;
};

/// Reads the key from `path` (mode 0600, else kPermission) or makes one there.
Result<Secret> load_or_make_secrets_key(const std::string& path);

}  // namespace bp::shell
