// When a cron expression is due in a time zone, through every change of the clocks:
// - a time that the clocks skip is due when they have jumped (02:30 in spring is due at 03:00),
//   unless the hour is "*": then the next matching minute is,
// - a time that comes twice is due the first time only, unless the hour is "*": then both times.
#pragma once
#include <cstdint>
#include <string>

#include "engine/base/result.h"
#include "engine/cron/cron_expression.h"

namespace bp::cron {

/// An IANA zone ("Europe/Berlin", "UTC"). Reads the system's zone files once per process.
class Zone {
 public:
  /// kInvalidArgument: no such zone, or the system has no zone files.
  static Result<Zone> find(const std::string& name);

  /// The first due time after `after_wall_ms`, in milliseconds since 1970 (UTC).
  int64_t next_wall_ms(const Expression& expression, int64_t after_wall_ms) const;

 private:
  explicit Zone(const void* zone) : zone_(zone) {}
  const void* zone_;  // date::time_zone, which lives as long as the process
};

}  // namespace bp::cron
