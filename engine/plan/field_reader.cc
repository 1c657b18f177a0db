#include "engine/plan/field_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cctype>

#include "engine/base/limits.h"
#include "engine/base/secret.h"
#include "engine/plan/nearest.h"

namespace bp::plan {
namespace {

namespace json = boost::json;

constexpr size_t kFoundBytes = 120;

std::string cut(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t n = max_bytes;
  while (n > 0 && (static_cast<unsigned char>(text[n]) & 0xC0) == 0x80) --n;
  return std::string(text.substr(0, n)) + "...";
}

/// Problems are shown on terminals: nothing in them may steer one.
std::string printable(std::string_view text) {
  std::string out;
  for (char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f)
      out += fmt::format("\\x{:02x}", u);
    else
      out += c;
  }
  return out;
}

bool plain_key(std::string_view key) {
  return !key.empty() && key.size() <= 64 &&
         std::all_of(key.begin(), key.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

bool has_control(std::string_view s) {
  return std::any_of(s.begin(), s.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

/// The number that `v` or the digits of its string stand for; none when it is no whole number.
std::optional<uint64_t> whole_number(const json::value& v) {
  if (v.is_uint64()) return v.get_uint64();
  if (v.is_int64() && v.get_int64() >= 0) return static_cast<uint64_t>(v.get_int64());
  if (!v.is_string()) return {};
  const json::string& s = v.get_string();
  if (s.empty() || s.size() > 18) return {};
  uint64_t n = 0;
  for (char c : s) {
    if (c < '0' || c > '9') return {};
    n = n * 10 + static_cast<uint64_t>(c - '0');
  }
  return n;
}

}  // namespace

void add_problem(Problems& problems, std::string path, std::string_view found, std::string expected,
                 std::string remedy) {
  v1::Problem p;
  p.set_path(printable(redact(path)));
  p.set_found(printable(cut(redact(found), kFoundBytes)));
  p.set_expected(std::move(expected));
  p.set_remedy(std::move(remedy));
  problems.push_back(std::move(p));
}

std::string describe_json(const json::value& v) {
  switch (v.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return v.get_bool() ? "true" : "false";
    case json::kind::int64:
    case json::kind::uint64:
    case json::kind::double_:
      return "the number " + json::serialize(v);
    case json::kind::string:
      return fmt::format("\"{}\"", std::string_view(v.get_string()));
    case json::kind::array:
      return fmt::format("an array of {}", v.get_array().size());
    case json::kind::object:
      return "an object";
  }
  return "something else";
}

std::string FieldReader::path_of(std::string_view key) const {
  if (plain_key(key)) return fmt::format("{}.{}", path_, key);
  return fmt::format("{}[\"{}\"]", path_, cut(key, 64));
}

bool FieldReader::has(std::string_view key) {
  known_.push_back(key);
  return object_.if_contains(json::string_view(key.data(), key.size())) != nullptr;
}

const json::value* FieldReader::find(std::string_view key, bool required,
                                     std::string_view expected) {
  const bool present = has(key);
  const json::value* v =
      present ? object_.if_contains(json::string_view(key.data(), key.size())) : nullptr;
  if (v && !v->is_null()) return v;
  if (required) {
    add_problem(problems_, path_of(key), present ? "null" : "nothing", std::string(expected),
                "Add the field");
  }
  return nullptr;
}

uint32_t FieldReader::number(std::string_view key, uint32_t min, uint32_t max,
                             std::optional<uint32_t> otherwise) {
  const std::string expected = fmt::format("a whole number from {} to {}", min, max);
  const json::value* v = find(key, !otherwise, expected);
  if (!v) return otherwise.value_or(0);
  const std::optional<uint64_t> n = whole_number(*v);
  if (n && *n >= min && *n <= max) return static_cast<uint32_t>(*n);
  add_problem(problems_, path_of(key), describe_json(*v), expected,
              n ? "Choose a number in that range" : "Write a whole number, with or without quotes");
  return 0;
}

std::string FieldReader::text(std::string_view key, size_t max_bytes,
                              std::optional<std::string> otherwise) {
  const std::string expected = fmt::format("a text of 1 to {} bytes", max_bytes);
  const json::value* v = find(key, !otherwise, expected);
  if (!v) return otherwise.value_or(std::string());
  if (!v->is_string()) {
    add_problem(problems_, path_of(key), describe_json(*v), expected, "Write a text in quotes");
    return {};
  }
  std::string s(v->get_string());
  if (s.empty() || s.size() > max_bytes || has_control(s)) {
    add_problem(
        problems_, path_of(key),
        has_control(s) ? "a text with control characters" : fmt::format("{} bytes", s.size()),
        expected + " without control characters", "Shorten or fill in the text");
    return {};
  }
  return s;
}

std::string FieldReader::secret_text(std::string_view key, size_t max_bytes) {
  const std::string expected = fmt::format("a text of 1 to {} bytes", max_bytes);
  const json::value* v = find(key, true, expected);
  if (!v) return {};
  const size_t size = v->is_string() ? v->get_string().size() : 0;
  if (!v->is_string() || size == 0 || size > max_bytes || has_control(v->get_string())) {
    add_problem(problems_, path_of(key),
                v->is_string() ? fmt::format("a text of {} bytes", size) : "no text", expected,
                "Write the address in quotes");
    return {};
  }
  return std::string(v->get_string());
}

std::vector<std::string> FieldReader::texts(std::string_view key, size_t max_count) {
  const std::string expected = fmt::format("an array of at most {} texts", max_count);
  const json::value* v = find(key, false, expected);
  std::vector<std::string> out;
  if (!v) return out;
  if (!v->is_array() || v->get_array().size() > max_count) {
    add_problem(problems_, path_of(key), describe_json(*v), expected, "Write [\"name\", ...]");
    return out;
  }
  for (size_t i = 0; i < v->get_array().size(); ++i) {
    const json::value& e = v->get_array()[i];
    const bool good = e.is_string() && !e.get_string().empty() && !has_control(e.get_string()) &&
                      e.get_string().size() <= limits::kObjectNameBytes;
    if (good) {
      out.emplace_back(e.get_string());
    } else {
      add_problem(problems_, fmt::format("{}[{}]", path_of(key), i),
                  e.is_string() ? fmt::format("a text of {} bytes", e.get_string().size())
                                : describe_json(e),
                  fmt::format("a text of 1 to {} bytes", limits::kObjectNameBytes),
                  "Name an object or folder");
    }
  }
  return out;
}

const json::array* FieldReader::array(std::string_view key, std::string_view expected) {
  const json::value* v = find(key, true, expected);
  if (!v) return nullptr;
  if (v->is_array()) return &v->get_array();
  add_problem(problems_, path_of(key), describe_json(*v), std::string(expected),
              "Write an array: [ ... ]");
  return nullptr;
}

const json::object* FieldReader::object(std::string_view key, std::string_view expected) {
  const json::value* v = find(key, true, expected);
  if (!v) return nullptr;
  if (v->is_object()) return &v->get_object();
  add_problem(problems_, path_of(key), describe_json(*v), std::string(expected),
              "Write an object: { ... }");
  return nullptr;
}

void FieldReader::foreign(std::string_view key) {
  foreign_.push_back(key);
  if (!object_.if_contains(json::string_view(key.data(), key.size()))) return;
  add_problem(problems_, path_of(key), "the field", "a recipe of mode raycluster without it",
              "Remove it: this field belongs to other modes and would have no effect");
}

void FieldReader::report_unknown() {
  size_t reported = 0;
  for (const auto& [k, value] : object_) {
    const std::string_view key(k.data(), k.size());
    auto is_key = [key](std::string_view n) { return n == key; };
    if (std::any_of(known_.begin(), known_.end(), is_key) ||
        std::any_of(foreign_.begin(), foreign_.end(), is_key)) {
      continue;
    }
    if (++reported > 100) break;
    const std::string_view near = nearest_name(key, known_, std::max<size_t>(3, key.size() / 3));
    add_problem(
        problems_, path_of(key), "an unknown field", "only fields of the recipe format",
        near.empty() ? "Remove it" : fmt::format("Did you mean {}? Otherwise remove it", near));
  }
}

}  // namespace bp::plan
