// A cron expression: minute hour day-of-month month day-of-week, or @hourly, @daily, @weekly,
// @monthly, @yearly. Fields take *, numbers, names (JAN-DEC, SUN-SAT; Sunday is 0 or 7), ranges
// a-b, steps */n and a-b/n, and lists of those. Where day of month and day of week are both
// restricted, either is enough, as in cron(5). Pure: calendar minutes only, no zone, no clock.
#pragma once
#include <date/date.h>

#include <bitset>
#include <optional>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace bp::cron {

/// A minute on the wall calendar of some zone.
using LocalMinute = date::local_time<std::chrono::minutes>;

class Expression {
 public:
  /// kInvalidArgument names the field, what was found and what was expected, and refuses dates that
  /// never come (30 February).
  static Result<Expression> parse(std::string_view text);

  bool matches(LocalMinute minute) const;
  /// The first matching minute after `after`. Always exists: parse has made sure of it.
  LocalMinute next(LocalMinute after) const;
  /// "*" or "*/n" as the hour: the minutes go on through a change of the clocks.
  bool any_hour() const { return any_hour_; }
  const std::string& text() const { return text_; }

 private:
  bool day_matches(date::local_days day) const;
  std::optional<LocalMinute> find(LocalMinute after) const;

  std::string text_;
  std::bitset<60> minutes_;
  std::bitset<24> hours_;
  std::bitset<32> days_;     // 1-31
  std::bitset<13> months_;   // 1-12
  std::bitset<7> weekdays_;  // 0 is Sunday
  bool any_day_ = false, any_weekday_ = false, any_hour_ = false;
};

}  // namespace bp::cron
