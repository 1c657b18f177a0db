#include "engine/cron/zone.h"

#include <date/tz.h>

namespace bp::cron {
namespace {

using SysMs = date::sys_time<std::chrono::milliseconds>;
using SysMinute = date::sys_time<std::chrono::minutes>;

}  // namespace

Result<Zone> Zone::find(const std::string& name) {
  try {
    return Zone(date::locate_zone(name.empty() ? "UTC" : name));
  } catch (const std::exception& e) {
    return Error{ErrorCode::kInvalidArgument, "time zone \"" + name + "\": " + e.what(),
                 "Use a name of the IANA database such as Europe/Berlin; package tzdata holds it"};
  }
}

int64_t Zone::next_wall_ms(const Expression& expression, int64_t after_wall_ms) const {
  const auto& zone = *static_cast<const date::time_zone*>(zone_);
  const SysMs after{std::chrono::milliseconds(after_wall_ms)};
  const auto start = date::floor<std::chrono::minutes>(after);
  auto ms = [](SysMinute t) { return int64_t(SysMs(t).time_since_epoch().count()); };
  // The clocks may have been set back within the last hours: begin before that, and take the first
  // due time that is later than `after`.
  LocalMinute local =
      date::floor<std::chrono::minutes>(zone.to_local(start)) - std::chrono::hours(3);
  SysMinute best{};
  bool found = false;
  // Everything within three hours before to the first hit after: few steps, but for "* * * * *".
  while (!found || local < date::floor<std::chrono::minutes>(zone.to_local(best))) {
    local = expression.next(local);
    const date::local_info info = zone.get_info(local);
    SysMinute due[2];
    int n = 0;
    if (info.result == date::local_info::nonexistent) {
      if (!expression.any_hour()) due[n++] = date::floor<std::chrono::minutes>(info.first.end);
    } else {
      due[n++] = SysMinute(local.time_since_epoch() -
                           date::floor<std::chrono::minutes>(info.first.offset));
      if (info.result == date::local_info::ambiguous && expression.any_hour()) {
        due[n++] = SysMinute(local.time_since_epoch() -
                             date::floor<std::chrono::minutes>(info.second.offset));
      }
    }
    for (int i = 0; i < n; ++i) {
      if (SysMs(due[i]) > after && (!found || due[i] < best)) {
        best = due[i];
        found = true;
      }
    }
  }
  return ms(best);
}

}  // namespace bp::cron
