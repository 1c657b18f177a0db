// Identifiers: short, sortable by creation, safe in file names and URLs.
#pragma once
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace bp {
/// `prefix` + "-" + 16 characters of [0-9a-z] from the system's random source.
std::string random_id(std::string_view prefix);
/// `bytes` random bytes as lower-case hex.
std::string random_hex(size_t bytes);
/// SHA-256 of `data` as lower-case hex.
std::string sha256_hex(std::string_view data);
/// BLAKE2b-256 of `data` as lower-case hex: names what lies beside the journal.
std::string content_hash(std::string_view data);
/// Deployment name as a DNS-1035 label: lower case, [a-z0-9-], at most 53 characters, starts with a
/// letter. kInvalidArgument when nothing is left.
Result<std::string> canonical_name(std::string_view name);
}  // namespace bp
