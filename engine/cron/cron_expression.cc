#include "engine/cron/cron_expression.h"

#include <array>
#include <charconv>
#include <vector>

namespace bp::cron {
namespace {

constexpr size_t kTextBytes = 256;
constexpr int kYearsAhead = 9;  // 29 February may be eight years away

struct Field {
  const char* name;
  int low, high;
  std::array<const char*, 12> words;  // names of low, low + 1, ...
};
constexpr Field kFields[] = {
    {"minute", 0, 59, {}},
    {"hour", 0, 23, {}},
    {"day of month", 1, 31, {}},
    {"month",
     1,
     12,
     {"JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"}},
    {"day of week", 0, 7, {"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}},
};

Error fault(const Field& f, std::string_view found, const std::string& expected) {
  return {
      ErrorCode::kInvalidArgument,
      "cron field \"" + std::string(f.name) + "\": found \"" + std::string(found) +
          "\", expected " + expected,
      "Write five fields: minute hour day-of-month month day-of-week, such as \"30 4 * * MON\""};
}

bool same_word(std::string_view text, const char* word) {
  if (!word || text.size() != 3) return false;
  for (size_t i = 0; i < 3; ++i) {
    if ((text[i] & ~0x20) != word[i]) return false;
  }
  return true;
}

Result<int> number(const Field& f, std::string_view text) {
  for (size_t i = 0; i < f.words.size(); ++i) {
    if (same_word(text, f.words[i])) return f.low + int(i);
  }
  int value = -1;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < f.low || value > f.high) {
    return fault(f, text, std::to_string(f.low) + " to " + std::to_string(f.high));
  }
  return value;
}

std::vector<std::string_view> split(std::string_view text, char by) {
  std::vector<std::string_view> parts;
  for (size_t at = 0;;) {
    const size_t end = text.find(by, at);
    parts.push_back(text.substr(at, end == std::string_view::npos ? end : end - at));
    if (end == std::string_view::npos) return parts;
    at = end + 1;
  }
}

// One member of a list: *, a, a-b, each with an optional /step. Calls put(value).
template <class Put>
Status read_range(const Field& f, std::string_view text, Put put) {
  int step = 1;
  const size_t slash = text.find('/');
  if (slash != std::string_view::npos) {
    const std::string_view digits = text.substr(slash + 1);
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
    if (error != std::errc() || end != digits.data() + digits.size() || step < 1 || step > f.high)
      return fault(f, text, "a step of 1 to " + std::to_string(f.high) + " after the slash");
    text = text.substr(0, slash);
  }
  int from = f.low, to = f.high;
  if (text != "*") {
    const size_t dash = text.find('-');
    BP_ASSIGN(from, number(f, text.substr(0, dash)));
    to = slash != std::string_view::npos ? f.high : from;
    if (dash != std::string_view::npos) {
      BP_ASSIGN(to, number(f, text.substr(dash + 1)));
    }
    if (to < from) return fault(f, text, "a range whose end is not before its begin");
  } else if (std::string_view(f.name) == "day of week") {
    to = 6;
  }
  for (int v = from; v <= to; v += step) put(v);
  return {};
}

std::string_view expand(std::string_view text) {
  if (text == "@hourly") return "0 * * * *";
  if (text == "@daily" || text == "@midnight") return "0 0 * * *";
  if (text == "@weekly") return "0 0 * * 0";
  if (text == "@monthly") return "0 0 1 * *";
  if (text == "@yearly" || text == "@annually") return "0 0 1 1 *";
  return text;
}

}  // namespace

Result<Expression> Expression::parse(std::string_view text) {
  if (text.size() > kTextBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 "a cron expression of " + std::to_string(text.size()) + " bytes; at most " +
                     std::to_string(kTextBytes),
                 {}};
  }
  Expression e;
  e.text_ = std::string(text);
  std::vector<std::string_view> fields;
  for (std::string_view part : split(expand(text), ' ')) {
    if (!part.empty()) fields.push_back(part);
  }
  if (fields.size() != 5) {
    return Error{ErrorCode::kInvalidArgument,
                 "cron expression \"" + e.text_ + "\" has " + std::to_string(fields.size()) +
                     " fields; expected 5, or one of @hourly @daily @weekly @monthly @yearly",
                 {}};
  }
  for (size_t i = 0; i < 5; ++i) {
    for (std::string_view part : split(fields[i], ',')) {
      BP_TRY(read_range(kFields[i], part, [&](int v) {
        if (i == 0) e.minutes_.set(size_t(v));
        if (i == 1) e.hours_.set(size_t(v));
        if (i == 2) e.days_.set(size_t(v));
        if (i == 3) e.months_.set(size_t(v));
        if (i == 4) e.weekdays_.set(size_t(v % 7));
      }));
    }
  }
  e.any_hour_ = fields[1].starts_with('*');
  e.any_day_ = fields[2].starts_with('*');
  e.any_weekday_ = fields[4].starts_with('*');
  // A leap year is the first of the years looked at, so that 29 February is found at once.
  if (!e.find(LocalMinute(date::local_days(date::year(2024) / 1 / 1)))) {
    return Error{ErrorCode::kInvalidArgument,
                 "cron expression \"" + e.text_ + "\" names a date that never comes",
                 {}};
  }
  return e;
}

bool Expression::day_matches(date::local_days day) const {
  const date::year_month_day d(day);
  if (!months_[unsigned(d.month())]) return false;
  const bool by_day = days_[unsigned(d.day())];
  const bool by_weekday = weekdays_[date::weekday(day).c_encoding()];
  if (any_day_ || any_weekday_) return by_day && by_weekday;
  return by_day || by_weekday;
}

bool Expression::matches(LocalMinute minute) const {
  const auto day = date::floor<date::days>(minute);
  const auto of_day = (minute - day).count();
  return day_matches(day) && hours_[size_t(of_day / 60)] && minutes_[size_t(of_day % 60)];
}

std::optional<LocalMinute> Expression::find(LocalMinute after) const {
  const LocalMinute first = after + std::chrono::minutes(1);
  auto day = date::floor<date::days>(first);
  auto from = size_t((first - day).count());
  for (int i = 0; i < 366 * kYearsAhead; ++i, day += date::days(1), from = 0) {
    if (!day_matches(day)) continue;
    for (size_t m = from; m < 24 * 60; ++m) {
      if (!hours_[m / 60]) {
        m = m / 60 * 60 + 59;
        continue;
      }
      if (minutes_[m % 60]) return day + std::chrono::minutes(m);
    }
  }
  return std::nullopt;
}

LocalMinute Expression::next(LocalMinute after) const {
  auto found = find(after);
  BP_CHECK(found.has_value());
  return *found;
}

}  // namespace bp::cron
