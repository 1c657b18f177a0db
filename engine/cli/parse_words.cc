#include "engine/cli/parse_words.h"

#include <cctype>
#include <charconv>
#include <ctime>

#include "engine/base/limits.h"
#include "engine/cli/json_view.h"
#include "engine/cli/output.h"

namespace bp::cli {
namespace {

Error wrong(const std::string& what, const std::string& found, const std::string& expected) {
  return {
      ErrorCode::kInvalidArgument, what + ": found \"" + found + "\", expected " + expected, {}};
}

bool number(std::string_view text, int64_t* value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && *value >= 0;
}

/// An enum value by its last word: "failed" of RUN_STATE_FAILED.
Result<int> enum_value(const google::protobuf::EnumDescriptor* type, const std::string& text) {
  std::string words;
  for (int i = 0; i < type->value_count(); ++i) {
    const auto* v = type->value(i);
    if (v->number() == 0) continue;
    if (v->name() == text || enum_word(v) == text) return v->number();
    words += (words.empty() ? "" : ", ") + enum_word(v);
  }
  return wrong(type->name(), text, "one of " + words);
}

}  // namespace

Result<int64_t> parse_duration_ms(const std::string& text) {
  size_t digits = 0;
  while (digits < text.size() && std::isdigit(static_cast<unsigned char>(text[digits]))) ++digits;
  int64_t value = 0;
  const std::string unit = text.substr(digits);
  const std::pair<const char*, int64_t> units[] = {
      {"ms", 1},       {"s", 1'000},     {"", 1'000},       {"m", 60'000},
      {"min", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}, {"w", 7 * 86'400'000ll}};
  if (digits > 0 && digits <= 12 && number(std::string_view(text).substr(0, digits), &value)) {
    for (const auto& [name, ms] : units) {
      if (unit == name && value <= INT64_MAX / ms / 1000) return value * ms;
    }
  }
  return wrong("duration", text, "a number with ms, s, m, h, d or w, such as 90s or 2h");
}

Result<int64_t> parse_time_ms(const std::string& text, int64_t now_wall_ms) {
  int64_t value = 0;
  if (text.size() > 11 && number(text, &value)) return value;
  for (const char* format : {"%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d %H:%M:%S",
                             "%Y-%m-%d %H:%M", "%Y-%m-%d"}) {
    std::tm t{};
    const char* end = ::strptime(text.c_str(), format, &t);
    if (end && *end == '\0') return int64_t(::timegm(&t)) * 1000;
  }
  auto ago = parse_duration_ms(text);
  if (ago.ok()) return now_wall_ms - *ago;
  return wrong("time", text,
               "how long ago (2h, 30d), a date (2026-11-23, 2026-11-23T14:00:00Z; UTC), or "
               "milliseconds since 1970");
}

Result<std::pair<std::string, std::string>> parse_pair(const std::string& text) {
  const size_t eq = text.find('=');
  if (eq == std::string::npos || eq == 0) return wrong("argument", text, "KEY=VALUE");
  return std::pair(text.substr(0, eq), text.substr(eq + 1));
}

Result<std::pair<std::string, std::string>> parse_input(const std::string& text) {
  auto pair = parse_pair(text);
  if (!pair.ok() || !pair->second.starts_with('@')) return pair;
  auto bytes = read_input(pair->second.substr(1), limits::kMessageBytes / 2);
  if (!bytes.ok()) return bytes.error();
  return std::pair(pair->first, std::move(*bytes));
}

Result<v1::RunState> parse_run_state(const std::string& text) {
  BP_ASSIGN(int value, enum_value(v1::RunState_descriptor(), text));
  return v1::RunState(value);
}

Result<v1::Overlap> parse_overlap(const std::string& text) {
  std::string word = text;
  for (char& c : word) c = c == '-' ? '_' : c;
  BP_ASSIGN(int value, enum_value(v1::Overlap_descriptor(), word));
  return v1::Overlap(value);
}

Result<v1::RunFilter> parse_filter(const FilterOptions& o, int64_t now_wall_ms) {
  v1::RunFilter f;
  f.set_name(o.name);
  f.set_workflow(o.workflow);
  f.set_error_code(o.error_code);
  for (const std::string& text : o.states) {
    BP_ASSIGN(v1::RunState state, parse_run_state(text));
    f.add_states(state);
  }
  for (const std::string& text : o.labels) {
    BP_ASSIGN(auto pair, parse_pair(text));
    (*f.mutable_labels())[pair.first] = pair.second;
  }
  auto time = [&](const std::string& text) -> Result<int64_t> {
    if (text.empty()) return 0;
    return parse_time_ms(text, now_wall_ms);
  };
  BP_ASSIGN(int64_t created_from, time(o.created_after));
  BP_ASSIGN(int64_t created_to, time(o.created_before));
  BP_ASSIGN(int64_t ended_from, time(o.ended_after));
  BP_ASSIGN(int64_t ended_to, time(o.ended_before));
  f.set_created_from_wall_ms(created_from);
  f.set_created_to_wall_ms(created_to);
  f.set_ended_from_wall_ms(ended_from);
  f.set_ended_to_wall_ms(ended_to);
  return f;
}

}  // namespace bp::cli
