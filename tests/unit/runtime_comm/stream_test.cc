#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <thread>

#include "runtime/device/stream.h"

using namespace bp;
using namespace bp::rt;

TEST_CASE("stream: work runs in order, and an event means everything before it is done") {
  auto s = make_cpu_stream();
  std::vector<int> seen;
  for (int i = 0; i < 100; ++i) s->enqueue([&, i]() -> Status { seen.push_back(i); return {}; });
  REQUIRE(s->wait(s->record(), Deadline::in_ms(5'000)).ok());
  REQUIRE(seen.size() == 100);
  CHECK(seen[99] == 99);
}

TEST_CASE("stream: after a failure the rest is dropped and every wait tells the failure") {
  auto s = make_cpu_stream();
  std::atomic<bool> ran{false};
  s->enqueue([]() -> Status { return Error{ErrorCode::kIo, "no luck", {}}; });
  s->enqueue([&]() -> Status { ran = true; return {}; });
  auto status = s->wait(s->record(), Deadline::in_ms(5'000));
  REQUIRE(!status.ok());
  CHECK(status.error().message == "no luck");
  CHECK(!ran);
}

TEST_CASE("stream: a wait ends at its deadline and says how far the work got") {
  auto s = make_cpu_stream();
  s->enqueue([]() -> Status { std::this_thread::sleep_for(std::chrono::milliseconds(120)); return {}; });
  auto status = s->wait(s->record(), Deadline::in_ms(20));
  REQUIRE(!status.ok());
  CHECK(status.error().code == ErrorCode::kDeadlineExceeded);
  CHECK(s->wait(s->record(), Deadline::in_ms(5'000)).ok());
}
