// Typed reading of one JSON object of a recipe: every problem is collected, every field that was
// not asked for is unknown. Numbers may be strings, as the published samples write them. Internal
// to engine/plan.
#pragma once
#include <boost/json/fwd.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bp/v1/common.pb.h"

namespace bp::plan {

using Problems = std::vector<v1::Problem>;

/// Adds a problem; `found` is cut to 120 characters and loses every bearer token.
void add_problem(Problems& problems, std::string path, std::string_view found, std::string expected,
                 std::string remedy);

/// "a string", "the number 3", ... for messages; never more than a few words.
std::string describe_json(const boost::json::value& v);

class FieldReader {
 public:
  /// `path` is "$" or "$.recipe_raycluster_params" or "$.input_object_storage[0]".
  FieldReader(const boost::json::object& object, std::string path, Problems& problems)
      : object_(object), path_(std::move(path)), problems_(problems) {}

  std::string path_of(std::string_view key) const;
  bool has(std::string_view key);

  /// A whole number from `min` to `max`, or a string of digits. Absent: `otherwise`, or a problem
  /// when that is empty. 0 after a problem, which has been added.
  uint32_t number(std::string_view key, uint32_t min, uint32_t max,
                  std::optional<uint32_t> otherwise = {});
  /// A string of 1 to `max_bytes` bytes without control characters.
  std::string text(std::string_view key, size_t max_bytes,
                   std::optional<std::string> otherwise = {});
  /// Like text, but its value shows in no message.
  std::string secret_text(std::string_view key, size_t max_bytes);
  /// An array of strings; absent is empty.
  std::vector<std::string> texts(std::string_view key, size_t max_count);
  const boost::json::array* array(std::string_view key, std::string_view expected);
  const boost::json::object* object(std::string_view key, std::string_view expected);

  /// Marks as known, whatever the value is.
  void ignore(std::string_view key) { has(key); }
  /// Marks as a field of other dialects: present, it is one problem that says so.
  void foreign(std::string_view key);
  /// Adds a problem for each field that was never asked for, with the nearest known one.
  void report_unknown();

 private:
  const boost::json::value* find(std::string_view key, bool required, std::string_view expected);

  const boost::json::object& object_;
  std::string path_;
  Problems& problems_;
  std::vector<std::string_view> known_;
  std::vector<std::string_view> foreign_;
};

}  // namespace bp::plan
