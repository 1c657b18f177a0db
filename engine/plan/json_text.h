// JSON from outside, bounded in bytes and depth, with what a plain parser hides: where it broke,
// and which keys occur twice. Internal to engine/plan.
#pragma once
#include <boost/json/fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"

namespace bp::plan {

struct DuplicateKey {
  std::string path;  // "$.a[2].b"
};

/// kTooLarge above `max_bytes`; kCorruptData names line, column and what was wrong. When
/// `duplicates` is null, a duplicate key is kCorruptData too; else it is reported there and the
/// last one counts.
Result<boost::json::value> parse_json_text(std::string_view text, size_t max_bytes,
                                           std::vector<DuplicateKey>* duplicates = nullptr);

}  // namespace bp::plan
