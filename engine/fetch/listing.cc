#include "engine/fetch/listing.h"

#include <boost/json.hpp>

#include "engine/base/limits.h"

namespace bp::fetch {
namespace json = boost::json;
namespace {

Error bad(const std::string& where, const std::string& found, const std::string& expected) {
  return {ErrorCode::kCorruptData,
          "listing: at " + where + " found " + found + ", expected " + expected,
          "Check that the address is that of an object store"};
}

std::string kind_name(const json::value& v) { return json::to_string(v.kind()); }

// An optional text field; null counts as absent.
Result<std::string> text_of(const json::object& o, const char* key, const std::string& where,
                            size_t max) {
  const json::value* v = o.if_contains(key);
  if (!v || v->is_null()) return std::string();
  if (!v->is_string()) return bad(where + "." + key, kind_name(*v), "a string");
  if (v->get_string().size() > max) {
    return bad(where + "." + key, std::to_string(v->get_string().size()) + " bytes",
               "at most " + std::to_string(max));
  }
  return std::string(v->get_string());
}

Result<ObjectInfo> object_of(const json::value& v, const std::string& where) {
  if (!v.is_object()) return bad(where, kind_name(v), "an object");
  const json::object& o = v.get_object();
  ObjectInfo info;
  BP_ASSIGN(info.name, text_of(o, "name", where, limits::kObjectNameBytes));
  if (info.name.empty()) return bad(where + ".name", "nothing", "a name");
  const json::value* size = o.if_contains("size");
  if (!size) return bad(where + ".size", "nothing", "a number of bytes");
  if (size->is_uint64()) {
    info.size_bytes = size->get_uint64();
  } else if (size->is_int64() && size->get_int64() >= 0) {
    info.size_bytes = static_cast<uint64_t>(size->get_int64());
  } else {
    return bad(where + ".size", json::serialize(*size).substr(0, 40), "a number of bytes");
  }
  if (info.size_bytes > uint64_t{1} << 50)
    return bad(where + ".size", "more than 2^50", "a real size");
  BP_ASSIGN(info.etag, text_of(o, "etag", where, 256));
  BP_ASSIGN(info.md5_base64, text_of(o, "md5", where, 256));
  return info;
}

}  // namespace

Result<ListPage> parse_list_page(std::string_view text) {
  json::error_code ec;
  json::parse_options options;
  options.max_depth = limits::kJsonDepth;
  json::value root = json::parse(text, ec, {}, options);
  if (ec) return bad("the top", std::to_string(text.size()) + " bytes that are no JSON", "JSON");
  if (!root.is_object()) return bad("the top", kind_name(root), "an object");
  const json::object& o = root.get_object();
  const json::value* objects = o.if_contains("objects");
  if (!objects || !objects->is_array()) {
    return bad("objects", objects ? kind_name(*objects) : "nothing", "an array");
  }
  ListPage page;
  const auto& array = objects->get_array();
  if (array.size() > static_cast<size_t>(limits::kObjectsMax)) {
    return Error{ErrorCode::kTooLarge,
                 "listing: one page holds " + std::to_string(array.size()) + " objects",
                 {}};
  }
  page.objects.reserve(array.size());
  for (size_t i = 0; i < array.size(); ++i) {
    BP_ASSIGN(auto info, object_of(array[i], "objects[" + std::to_string(i) + "]"));
    page.objects.push_back(std::move(info));
  }
  BP_ASSIGN(page.next_start, text_of(o, "nextStartWith", "the top", limits::kObjectNameBytes));
  return page;
}

}  // namespace bp::fetch
