#include "storage/chain.h"

#include <sodium.h>

namespace bp::storage {
namespace {

class Hash {
 public:
  Hash() { crypto_generichash_init(&state_, nullptr, 0, crypto_generichash_BYTES); }
  Hash& number(uint64_t v) {
    unsigned char bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<unsigned char>(v >> (8 * i));
    crypto_generichash_update(&state_, bytes, sizeof bytes);
    return *this;
  }
  Hash& field(std::string_view v) {
    number(v.size());
    crypto_generichash_update(&state_, reinterpret_cast<const unsigned char*>(v.data()), v.size());
    return *this;
  }
  std::string done() {
    std::string out(crypto_generichash_BYTES, '\0');
    crypto_generichash_final(&state_, reinterpret_cast<unsigned char*>(out.data()), out.size());
    return out;
  }

 private:
  crypto_generichash_state state_;
};

}  // namespace

std::string new_salt() {
  std::string salt(kSaltBytes, '\0');
  randombytes_buf(salt.data(), salt.size());
  return salt;
}

std::string body_hash(std::string_view salt, std::string_view body) {
  return Hash().field(salt).field(body).done();
}

std::string chain_link(std::string_view previous, const EventRow& e,
                       std::string_view hash_of_body) {
  return Hash()
      .field(previous)
      .number(e.seq)
      .field(e.run_id)
      .number(e.run_seq)
      .number(static_cast<uint64_t>(e.wall_ms))
      .field(e.type)
      .field(hash_of_body)
      .done();
}

std::string commit_root(std::string_view previous, const std::vector<std::string>& links) {
  Hash h;
  h.field(previous);
  for (const std::string& link : links) h.field(link);
  return h.done();
}

}  // namespace bp::storage
