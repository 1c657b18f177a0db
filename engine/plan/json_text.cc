#include "engine/plan/json_text.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <boost/json/basic_parser_impl.hpp>
#include <set>

#include "engine/base/limits.h"

namespace bp::plan {
namespace {

namespace json = boost::json;
using boost::system::error_code;

/// Walks the text once more only to see duplicate keys, which json::value cannot hold.
class DuplicateFinder {
 public:
  static constexpr size_t max_object_size = SIZE_MAX, max_array_size = SIZE_MAX;
  static constexpr size_t max_key_size = SIZE_MAX, max_string_size = SIZE_MAX;

  std::vector<DuplicateKey> found;

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_object_begin(error_code&) {
    levels_.push_back({false, {}, {}, 0});
    return true;
  }
  bool on_object_end(size_t, error_code&) {
    levels_.pop_back();
    return value_done();
  }
  bool on_array_begin(error_code&) {
    levels_.push_back({true, {}, {}, 0});
    return true;
  }
  bool on_array_end(size_t, error_code&) {
    levels_.pop_back();
    return value_done();
  }
  bool on_key_part(json::string_view s, size_t, error_code&) {
    key_.append(s.data(), s.size());
    return true;
  }
  bool on_key(json::string_view s, size_t, error_code&) {
    key_.append(s.data(), s.size());
    Level& level = levels_.back();
    level.key = std::move(key_);
    key_.clear();
    if (!level.keys.insert(level.key).second && found.size() < 100) found.push_back({path()});
    return true;
  }
  bool on_string_part(json::string_view, size_t, error_code&) { return true; }
  bool on_string(json::string_view, size_t, error_code&) { return value_done(); }
  bool on_number_part(json::string_view, error_code&) { return true; }
  bool on_int64(int64_t, json::string_view, error_code&) { return value_done(); }
  bool on_uint64(uint64_t, json::string_view, error_code&) { return value_done(); }
  bool on_double(double, json::string_view, error_code&) { return value_done(); }
  bool on_bool(bool, error_code&) { return value_done(); }
  bool on_null(error_code&) { return value_done(); }
  bool on_comment_part(json::string_view, error_code&) { return true; }
  bool on_comment(json::string_view, error_code&) { return true; }

 private:
  struct Level {
    bool is_array;
    std::set<std::string> keys;
    std::string key;
    size_t index;
  };

  bool value_done() {
    if (!levels_.empty() && levels_.back().is_array) ++levels_.back().index;
    return true;
  }
  std::string path() const {
    std::string p = "$";
    for (const Level& l : levels_) p += l.is_array ? fmt::format("[{}]", l.index) : "." + l.key;
    return p;
  }

  std::vector<Level> levels_;
  std::string key_;
};

json::parse_options bounded_options() {
  json::parse_options o;
  o.max_depth = limits::kJsonDepth;
  return o;
}

std::string position_text(std::string_view text, size_t at) {
  at = std::min(at, text.size());
  size_t line = 1, column = 1;
  for (size_t i = 0; i < at; ++i) {
    if (text[i] == '\n') {
      ++line;
      column = 1;
    } else {
      ++column;
    }
  }
  return fmt::format("line {} column {}", line, column);
}

std::vector<DuplicateKey> find_duplicates(std::string_view text) {
  json::basic_parser<DuplicateFinder> parser(bounded_options());
  error_code ec;
  parser.write_some(false, text.data(), text.size(), ec);
  return std::move(parser.handler().found);
}

}  // namespace

Result<json::value> parse_json_text(std::string_view text, size_t max_bytes,
                                    std::vector<DuplicateKey>* duplicates) {
  if (text.size() > max_bytes) {
    return Error{ErrorCode::kTooLarge,
                 fmt::format("found {} bytes of JSON, expected at most {}", text.size(), max_bytes),
                 {}};
  }
  json::stream_parser parser({}, bounded_options());
  error_code ec;
  size_t used = parser.write_some(text.data(), text.size(), ec);
  if (!ec && used < text.size()) ec = json::error::extra_data;
  if (!ec) parser.finish(ec);
  if (ec) {
    const bool too_deep = ec == json::error::too_deep;
    return Error{ErrorCode::kCorruptData,
                 fmt::format("not valid JSON at {}: {}", position_text(text, used),
                             too_deep ? fmt::format("nested deeper than {}", limits::kJsonDepth)
                                      : ec.message()),
                 {}};
  }
  std::vector<DuplicateKey> found = find_duplicates(text);
  if (duplicates) {
    *duplicates = std::move(found);
  } else if (!found.empty()) {
    return Error{
        ErrorCode::kCorruptData, fmt::format("{}: found twice, expected once", found[0].path), {}};
  }
  return parser.release();
}

}  // namespace bp::plan
