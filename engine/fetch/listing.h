// One page of a bucket listing, as JSON from outside. Pure; any thread.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/fetch/object_store.h"

namespace bp::fetch {

struct ListPage {
  std::vector<ObjectInfo> objects;
  std::string next_start;  // empty: this was the last page
};

/// Reads {"objects": [{"name", "size", "md5", "etag"}], "nextStartWith"}. kCorruptData says where,
/// what was found and what was expected.
Result<ListPage> parse_list_page(std::string_view json);

}  // namespace bp::fetch
