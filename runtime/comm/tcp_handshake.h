// How two ranks prove to each other that they hold the data key of the epoch, and the keys they get.
// Three messages of fixed size; D dials, A accepts:
//   D -> A  hello   magic 8, version 4, from 4, to 4, purpose 4, epoch 16, nonce 32, mac 32
//   A -> D  answer  nonce 32, mac 32
//   D -> A  proof   mac 32
// mac = BLAKE2b keyed by BLAKE2b(data_key, "bp data handshake") over a label and everything sent so far.
// Direction keys = BLAKE2b keyed by data_key over "dialler" or "acceptor", hello and answer.
// Numbers are little-endian. Nothing here does I/O.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/epoch.h"
#include "engine/base/result.h"
#include "engine/base/secret.h"

namespace bp::rt {

inline constexpr size_t kDataKeyBytes = 32;
inline constexpr size_t kHelloBytes = 104;
inline constexpr size_t kAnswerBytes = 64;
inline constexpr size_t kProofBytes = 32;

using LinkKey = std::array<unsigned char, 32>;
struct LinkKeys {
  LinkKey send, receive;
  ~LinkKeys();  // wiped
};

struct HelloFields {
  uint32_t from = 0, to = 0;   // global ranks
  uint32_t purpose = 0;        // which group
  Epoch epoch;
};

class Handshake {
 public:
  /// data_key: 32 bytes, else kInvalidArgument.
  static Result<Handshake> make(const Secret& data_key);

  // D:
  std::string make_hello(const HelloFields& fields);
  /// kUnauthorized when the answer was not made with our key for our hello.
  Result<std::string> make_proof(std::string_view answer);

  // A:
  /// kProtocol: not a hello; kUnauthorized: another key.
  Result<HelloFields> read_hello(std::string_view hello);
  std::string make_answer();
  /// kUnauthorized.
  Status read_proof(std::string_view proof);

  /// After the last message.
  LinkKeys keys(bool dialler) const;

 private:
  std::string mac(std::string_view label, std::string_view data) const;
  LinkKey direction_key(std::string_view label) const;
  Secret data_key_, mac_key_;
  std::string hello_, answer_;
};

}  // namespace bp::rt
