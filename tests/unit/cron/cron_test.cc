#include <catch2/catch.hpp>

#include "engine/cron/zone.h"

namespace bp::cron {
namespace {

using namespace date;
using std::chrono::hours;
using std::chrono::minutes;

LocalMinute at(int y, unsigned m, unsigned d, int h, int min) {
  return local_days(year(y) / m / d) + hours(h) + minutes(min);
}
int64_t utc_ms(int y, unsigned m, unsigned d, int h, int min) {
  return int64_t((sys_days(year(y) / m / d) + hours(h) + minutes(min)).time_since_epoch().count()) *
         60'000;
}
Expression parsed(const std::string& text) {
  auto e = Expression::parse(text);
  INFO(text);
  REQUIRE(e.ok());
  return std::move(e).value();
}
std::string refused(const std::string& text) {
  auto e = Expression::parse(text);
  INFO(text);
  REQUIRE_FALSE(e.ok());
  return e.error().message;
}

TEST_CASE("next minute of common expressions") {
  CHECK(parsed("* * * * *").next(at(2026, 3, 1, 23, 59)) == at(2026, 3, 2, 0, 0));
  CHECK(parsed("*/15 * * * *").next(at(2026, 3, 1, 10, 15)) == at(2026, 3, 1, 10, 30));
  CHECK(parsed("30 4 * * *").next(at(2026, 3, 1, 4, 30)) == at(2026, 3, 2, 4, 30));
  CHECK(parsed("5,50-52 8-10/2 * * *").next(at(2026, 3, 1, 8, 50)) == at(2026, 3, 1, 8, 51));
  CHECK(parsed("5,50-52 8-10/2 * * *").next(at(2026, 3, 1, 8, 52)) == at(2026, 3, 1, 10, 5));
  CHECK(parsed("0 0 29 feb *").next(at(2026, 1, 1, 0, 0)) == at(2028, 2, 29, 0, 0));
  CHECK(parsed("0 9 * * mon-FRI").next(at(2026, 11, 20, 9, 0)) == at(2026, 11, 23, 9, 0));
  CHECK(parsed("0 9 * * 7").next(at(2026, 11, 20, 9, 0)) == at(2026, 11, 22, 9, 0));
  CHECK(parsed("@monthly").next(at(2026, 12, 1, 0, 0)) == at(2027, 1, 1, 0, 0));
  CHECK(parsed("10/20 * * * *").next(at(2026, 1, 1, 0, 10)) == at(2026, 1, 1, 0, 30));
}

TEST_CASE("a restricted day of month and day of week: either is enough") {
  auto e = parsed("0 0 13 * FRI");
  CHECK(e.next(at(2026, 11, 1, 0, 0)) == at(2026, 11, 6, 0, 0));    // a Friday
  CHECK(e.next(at(2026, 12, 11, 0, 0)) == at(2026, 12, 13, 0, 0));  // a Sunday, but the 13th
  CHECK(parsed("0 0 13 * *").next(at(2026, 11, 1, 0, 0)) == at(2026, 11, 13, 0, 0));
}

TEST_CASE("next is the first minute that matches") {
  for (const char* text : {"7 3 * * *", "*/7 */5 1-7 * TUE", "0 12 31 * *", "59 23 * 2 *"}) {
    auto e = parsed(text);
    LocalMinute t = at(2027, 12, 25, 13, 7);
    const LocalMinute found = e.next(t);
    for (t += minutes(1); t < found; t += minutes(1)) REQUIRE_FALSE(e.matches(t));
    CHECK(e.matches(found));
  }
}

TEST_CASE("what is no cron expression is refused with the field") {
  CHECK(refused("60 * * * *").find("\"minute\": found \"60\", expected 0 to 59") !=
        std::string::npos);
  CHECK(refused("* 24 * * *").find("\"hour\"") != std::string::npos);
  CHECK(refused("* * 0 * *").find("\"day of month\"") != std::string::npos);
  CHECK(refused("* * * FOO *").find("\"month\": found \"FOO\"") != std::string::npos);
  CHECK(refused("* * * * 8").find("\"day of week\"") != std::string::npos);
  CHECK(refused("5-3 * * * *").find("range") != std::string::npos);
  CHECK(refused("*/0 * * * *").find("step") != std::string::npos);
  CHECK(refused("1,,2 * * * *").find("\"minute\"") != std::string::npos);
  CHECK(refused("* * * *").find("4 fields") != std::string::npos);
  CHECK(refused("@never").find("1 fields") != std::string::npos);
  CHECK(refused("0 0 30 2 *").find("never comes") != std::string::npos);
  CHECK(refused(std::string(300, '*')).find("300 bytes") != std::string::npos);
}

TEST_CASE("clocks that are put forward: a skipped time is due once they have jumped") {
  auto zone = Zone::find("Europe/Berlin");
  REQUIRE(zone.ok());
  // 29 March 2026: 02:00 becomes 03:00, that is 01:00 UTC.
  auto half_past_two = parsed("30 2 * * *");
  CHECK(zone->next_wall_ms(half_past_two, utc_ms(2026, 3, 28, 12, 0)) == utc_ms(2026, 3, 29, 1, 0));
  CHECK(zone->next_wall_ms(half_past_two, utc_ms(2026, 3, 29, 1, 0)) == utc_ms(2026, 3, 30, 0, 30));
  auto quarters = parsed("*/15 * * * *");
  CHECK(zone->next_wall_ms(quarters, utc_ms(2026, 3, 29, 0, 45)) == utc_ms(2026, 3, 29, 1, 0));
  CHECK(zone->next_wall_ms(quarters, utc_ms(2026, 3, 29, 1, 0)) == utc_ms(2026, 3, 29, 1, 15));
}

TEST_CASE("clocks that are put back: a time that comes twice is due once") {
  auto zone = Zone::find("Europe/Berlin");
  REQUIRE(zone.ok());
  // 25 October 2026: 03:00 becomes 02:00 at 01:00 UTC.
  auto half_past_two = parsed("30 2 * * *");
  CHECK(zone->next_wall_ms(half_past_two, utc_ms(2026, 10, 24, 12, 0)) ==
        utc_ms(2026, 10, 25, 0, 30));
  CHECK(zone->next_wall_ms(half_past_two, utc_ms(2026, 10, 25, 0, 30)) ==
        utc_ms(2026, 10, 26, 1, 30));
  auto half_hours = parsed("30 * * * *");
  CHECK(zone->next_wall_ms(half_hours, utc_ms(2026, 10, 25, 0, 30)) == utc_ms(2026, 10, 25, 1, 30));
}

TEST_CASE("zones are those of the system") {
  CHECK(Zone::find("UTC").ok());
  CHECK(Zone::find("").ok());
  auto none = Zone::find("Europe/Atlantis");
  REQUIRE_FALSE(none.ok());
  CHECK(none.error().message.find("Europe/Atlantis") != std::string::npos);
  // Milliseconds within the minute do not matter.
  auto e = parsed("0 0 * * *");
  CHECK(Zone::find("UTC")->next_wall_ms(e, utc_ms(2026, 1, 1, 23, 59) + 59'999) ==
        utc_ms(2026, 1, 2, 0, 0));
}

}  // namespace
}  // namespace bp::cron
