// The hash chain of a run over its events: BLAKE2b-256 (RFC 7693, by libsodium).
//   body_hash = H(salt, body)            the body can be erased without breaking the chain
//   link      = H(previous link, seq, run_id, run_seq, wall_ms, type, body_hash)
//   root      = H(previous root, links of one commit)
// Fields are prefixed by their length (8 bytes, little endian), numbers are 8 bytes, little endian.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "storage/store.h"

namespace bp::storage {
inline constexpr size_t kSaltBytes = 16;
std::string new_salt();
std::string body_hash(std::string_view salt, std::string_view body);
std::string chain_link(std::string_view previous, const EventRow& event,
                       std::string_view hash_of_body);
std::string commit_root(std::string_view previous, const std::vector<std::string>& links);
}  // namespace bp::storage
