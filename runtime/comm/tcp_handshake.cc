#include "runtime/comm/tcp_handshake.h"

#include <sodium.h>

#include <cstring>

namespace bp::rt {
namespace {

constexpr char kMagic[] = "BPDATA01";
constexpr uint32_t kVersion = 1;
constexpr size_t kMacBytes = 32, kNonceBytes = 32;

template <class T>
void put(std::string& out, T v) {
  for (size_t i = 0; i < sizeof v; ++i) out += static_cast<char>(v >> (8 * i) & 0xff);
}
template <class T>
T get(std::string_view in, size_t at) {
  T v = 0;
  for (size_t i = 0; i < sizeof v; ++i) v |= static_cast<T>(static_cast<unsigned char>(in[at + i])) << (8 * i);
  return v;
}

std::string keyed_hash(const std::string& key, std::string_view label, std::string_view data) {
  std::string out(32, '\0');
  crypto_generichash_state st;
  auto bytes = [](const char* p) { return reinterpret_cast<const unsigned char*>(p); };
  crypto_generichash_init(&st, bytes(key.data()), key.size(), out.size());
  crypto_generichash_update(&st, bytes(label.data()), label.size());
  crypto_generichash_update(&st, bytes(data.data()), data.size());
  crypto_generichash_final(&st, reinterpret_cast<unsigned char*>(out.data()), out.size());
  return out;
}

bool equal(std::string_view a, std::string_view b) {
  return a.size() == b.size() && sodium_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string nonce() {
  std::string out(kNonceBytes, '\0');
  randombytes_buf(out.data(), out.size());
  return out;
}

}  // namespace

LinkKeys::~LinkKeys() {
  sodium_memzero(send.data(), send.size());
  sodium_memzero(receive.data(), receive.size());
}

Result<Handshake> Handshake::make(const Secret& data_key) {
  if (sodium_init() < 0) return Error{ErrorCode::kInternal, "libsodium does not start", {}};
  if (data_key.reveal().size() != kDataKeyBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 "the data key has " + std::to_string(data_key.reveal().size()) + " bytes, expected 32",
                 {}};
  }
  Handshake h;
  h.data_key_ = data_key;
  h.mac_key_ = Secret(keyed_hash(data_key.reveal(), "bp data handshake", ""));
  return h;
}

std::string Handshake::mac(std::string_view label, std::string_view data) const {
  return keyed_hash(mac_key_.reveal(), label, data);
}

std::string Handshake::make_hello(const HelloFields& f) {
  hello_.assign(kMagic, 8);
  put(hello_, kVersion);
  put(hello_, f.from);
  put(hello_, f.to);
  put(hello_, f.purpose);
  put(hello_, f.epoch.incarnation);
  put(hello_, f.epoch.counter);
  hello_ += nonce();
  hello_ += mac("hello", hello_);
  BP_CHECK(hello_.size() == kHelloBytes);
  return hello_;
}

Result<HelloFields> Handshake::read_hello(std::string_view hello) {
  if (hello.size() != kHelloBytes || hello.substr(0, 8) != std::string_view(kMagic, 8) ||
      get<uint32_t>(hello, 8) != kVersion) {
    return Error{ErrorCode::kProtocol, "what came is not a greeting of a rank", {}};
  }
  const size_t signed_bytes = kHelloBytes - kMacBytes;
  if (!equal(hello.substr(signed_bytes), mac("hello", hello.substr(0, signed_bytes)))) {
    return Error{ErrorCode::kUnauthorized, "a greeting was signed with another key", {}};
  }
  hello_.assign(hello);
  HelloFields f;
  f.from = get<uint32_t>(hello, 12);
  f.to = get<uint32_t>(hello, 16);
  f.purpose = get<uint32_t>(hello, 20);
  f.epoch = {get<uint64_t>(hello, 24), get<uint64_t>(hello, 32)};
  return f;
}

std::string Handshake::make_answer() {
  answer_ = nonce();
  answer_ += mac("answer", hello_ + answer_);
  BP_CHECK(answer_.size() == kAnswerBytes);
  return answer_;
}

Result<std::string> Handshake::make_proof(std::string_view answer) {
  if (answer.size() != kAnswerBytes ||
      !equal(answer.substr(kNonceBytes), mac("answer", hello_ + std::string(answer.substr(0, kNonceBytes))))) {
    return Error{ErrorCode::kUnauthorized, "the answer was signed with another key", {}};
  }
  answer_.assign(answer);
  return mac("proof", hello_ + answer_);
}

Status Handshake::read_proof(std::string_view proof) {
  if (equal(proof, mac("proof", hello_ + answer_))) return {};
  return Error{ErrorCode::kUnauthorized, "the proof was signed with another key", {}};
}

LinkKey Handshake::direction_key(std::string_view label) const {
  std::string k = keyed_hash(data_key_.reveal(), label, hello_ + answer_);
  LinkKey out;
  std::memcpy(out.data(), k.data(), out.size());
  sodium_memzero(k.data(), k.size());
  return out;
}

LinkKeys Handshake::keys(bool dialler) const {
  LinkKeys k;
  k.send = direction_key(dialler ? "dialler" : "acceptor");
  k.receive = direction_key(dialler ? "acceptor" : "dialler");
  return k;
}

}  // namespace bp::rt
