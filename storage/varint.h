// Varints (LEB128) and length-prefixed fields: the framing of everything that the journal encodes.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bp::storage {

inline void put_varint(uint64_t v, std::string& out) {
  char bytes[10];
  size_t n = 0;
  for (; v >= 0x80; v >>= 7) bytes[n++] = static_cast<char>(v | 0x80);
  bytes[n++] = static_cast<char>(v);
  out.append(bytes, n);
}
inline void put_field(std::string_view v, std::string& out) {
  put_varint(v.size(), out);
  out.append(v);
}
inline uint64_t zigzag(int64_t v) {
  return (static_cast<uint64_t>(v) << 1) ^ static_cast<uint64_t>(v >> 63);
}
/// Of any two times: the difference wraps around, as their sum does when it is read.
inline uint64_t zigzag_difference(int64_t a, int64_t b) {
  return zigzag(static_cast<int64_t>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b)));
}
inline int64_t unzigzag(uint64_t v) { return static_cast<int64_t>((v >> 1) ^ (~(v & 1) + 1)); }

/// Moves `at` behind the number; nothing (and `at` where it was) when it is cut off or beyond 64
/// bits.
inline std::optional<uint64_t> get_varint(std::string_view bytes, size_t& at) {
  uint64_t v = 0;
  for (size_t i = 0; i < 10 && at + i < bytes.size(); ++i) {
    const auto b = static_cast<unsigned char>(bytes[at + i]);
    if (i == 9 && b > 1) return std::nullopt;
    v |= uint64_t{b & 0x7fu} << (7 * i);
    if (b < 0x80) {
      at += i + 1;
      return v;
    }
  }
  return std::nullopt;
}
inline std::optional<std::string_view> get_field(std::string_view bytes, size_t& at) {
  size_t from = at;
  const auto size = get_varint(bytes, from);
  if (!size || *size > bytes.size() - from) return std::nullopt;
  at = from + size_t(*size);
  return bytes.substr(from, size_t(*size));
}
inline void put_u64(uint64_t v, std::string& out) {
  char bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(v >> (8 * i));
  out.append(bytes, 8);
}
inline uint64_t get_u64(std::string_view eight) {
  uint64_t v = 0;
  for (size_t i = 0; i < 8; ++i) v |= uint64_t{static_cast<unsigned char>(eight[i])} << (8 * i);
  return v;
}

}  // namespace bp::storage
