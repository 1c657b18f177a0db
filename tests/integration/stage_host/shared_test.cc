// A shared host: many attempts in one process, over real sockets.
#include <catch2/catch.hpp>
#include <filesystem>

#include "shared_daemon.h"

using namespace bp;
using bp::test::SharedDaemon;

namespace {

const std::string kHost = std::string(BP_BUILD_DIR) + "/bin/bp-stage-host";
const std::string kProbe = std::string(BP_BUILD_DIR) + "/tests/plugins/probe.so";

size_t threads_of(const ProcessId& id) {
  size_t n = 0;
  for ([[maybe_unused]] auto& e : std::filesystem::directory_iterator("/proc/" + std::to_string(id.pid) + "/task")) ++n;
  return n;
}

}  // namespace

TEST_CASE("a shared host runs many attempts in few messages and threads") {
  SharedDaemon d(kHost, kProbe, 512);
  REQUIRE(d.pump([&] { return !d.hellos.empty(); }));
  CHECK(d.hellos[0].shared());
  CHECK(d.hellos[0].slots() == 512);
  CHECK(d.hellos[0].plugin() == "probe");
  const uint64_t before = d.batches;
  v1::StageBatch batch;
  for (uint64_t i = 1; i <= 500; ++i) SharedDaemon::add_run(batch, i, {{"do", "hello"}});
  d.send(batch);
  REQUIRE(d.pump([&] { return d.results.size() == 500; }));
  for (const auto& [id, count] : d.results) CHECK(count == 1);
  CHECK(d.last[17].outputs().at("value") == "hello world");
  CHECK(d.batches - before < 100);
  CHECK(threads_of(d.host) < 12);
}

TEST_CASE("options of all attempts come with the hello's answer; an attempt's own win") {
  SharedDaemon d(kHost, kProbe, 8);
  REQUIRE(d.pump([&] { return !d.hellos.empty(); }));
  d.run(1, {{"do", "option"}});
  d.run(2, {{"do", "option"}, {"common", "mine"}});
  REQUIRE(d.pump([&] { return d.results.size() == 2; }));
  CHECK(d.last[1].outputs().at("value") == "of-all");
  CHECK(d.last[2].outputs().at("value") == "mine");
}

TEST_CASE("attempts that wait or work long keep nobody waiting; a cancel reaches its own attempt") {
  SharedDaemon d(kHost, kProbe, 64);
  v1::StageBatch batch;
  for (uint64_t i = 1; i <= 20; ++i) SharedDaemon::add_run(batch, i, {{"do", "wait"}});
  for (uint64_t i = 21; i <= 24; ++i) SharedDaemon::add_run(batch, i, {{"do", "deaf"}, {"ms", "1500"}});
  for (uint64_t i = 31; i <= 40; ++i) SharedDaemon::add_run(batch, i, {{"do", "hello"}});
  d.send(batch);
  REQUIRE(d.pump([&] { return d.results.size() >= 10; }, 1200));
  for (uint64_t i = 31; i <= 40; ++i) CHECK(d.results.count(i) == 1);
  // Beats of those that are old, not of the others.
  REQUIRE(d.pump([&] { return d.beats.count(3) && d.beats[3] >= 2; }));
  CHECK(d.beats.count(35) == 0);
  v1::StageBatch cancel;
  auto* m = cancel.add_messages();
  *m->mutable_ref() = SharedDaemon::ref(3);
  m->mutable_cancel()->set_deadline_ms(1000);
  d.send(cancel);
  REQUIRE(d.pump([&] { return d.results.count(3) > 0; }));
  CHECK(d.last[3].outcome() == v1::AttemptResult::CANCELLED);
  CHECK(d.results.count(4) == 0);
  REQUIRE(d.pump([&] { return d.results.count(24) > 0; }));
}

TEST_CASE("a result is said again until it is acknowledged, and a double of its attempt is not run") {
  SharedDaemon d(kHost, kProbe, 8);
  d.acknowledge = false;
  d.run(1, {{"do", "echo"}});
  REQUIRE(d.pump([&] { return d.results[1] >= 2; }));
  d.run(1, {{"do", "hello"}});
  REQUIRE(d.pump([&] { return d.results[1] >= 4; }));
  CHECK(d.last[1].outputs().at("value") == "world");
  d.acknowledge = true;
  const int before = d.results[1];
  REQUIRE(d.pump([&] { return d.results[1] > before; }));
  const int acknowledged = d.results[1];
  d.run(1, {{"do", "hello"}});  // a double that comes late
  CHECK_FALSE(d.pump([&] { return d.results[1] > acknowledged; }, 1200));
}

TEST_CASE("after the daemon was away a shared host says what it holds, and loses nothing") {
  SharedDaemon d(kHost, kProbe, 16);
  d.acknowledge = false;
  d.run(1, {{"do", "echo"}});
  d.run(2, {{"do", "sleep"}, {"ms", "1500"}});
  d.run(3, {{"do", "wait"}});
  REQUIRE(d.pump([&] { return d.results.count(1) > 0; }));
  d.go_away();
  usleep(300'000);
  d.hellos.clear();
  d.come_back();
  REQUIRE(d.pump([&] { return !d.hellos.empty(); }));
  CHECK(d.hellos[0].holds_size() == 3);
  d.acknowledge = true;
  REQUIRE(d.pump([&] { return d.results.count(2) > 0; }));
  d.hellos.clear();
  REQUIRE(d.pump([&] { return !d.hellos.empty(); }));
  d.hellos.clear();
  REQUIRE(d.pump([&] { return !d.hellos.empty(); }));
  REQUIRE(d.hellos[0].holds_size() == 1);
  CHECK(d.hellos[0].holds(0).epoch().counter() == 3);
}

TEST_CASE("malformed batches cost nothing but themselves") {
  SharedDaemon d(kHost, kProbe, 8);
  REQUIRE(d.pump([&] { return !d.hellos.empty(); }));
  v1::StageBatch batch;
  batch.add_messages()->mutable_run();                 // names no run
  *batch.add_messages()->mutable_ref() = SharedDaemon::ref(9);  // says nothing
  auto* m = batch.add_messages();
  *m->mutable_ref() = SharedDaemon::ref(10);
  m->mutable_cancel();                                 // of an attempt that is not here
  batch.add_result_acks(4711);
  d.send(batch);
  d.run(1, {{"do", "throw"}});
  d.run(2, {{"do", "big"}});
  d.run(3, {{"do", "hello"}});
  REQUIRE(d.pump([&] { return d.results.size() == 3; }));
  CHECK(d.last[1].error().code() == error_name(ErrorCode::kPluginCrash));
  CHECK(d.last[2].error().code() == error_name(ErrorCode::kTooLarge));
  CHECK(d.last[3].outcome() == v1::AttemptResult::SUCCEEDED);
}

TEST_CASE("a shared host that is idle for its limit ends; one whose plugin is refused says why") {
  SECTION("idle") {
    SharedDaemon d(kHost, kProbe, 8, {"--idle-limit-ms", "400"});
    REQUIRE(d.pump([&] { return !d.hellos.empty(); }));
    CHECK(process_wait_gone(d.host, Deadline::in_ms(5000)).ok());
  }
  SECTION("refused") {
    SharedDaemon d(kHost, "/nowhere/missing.so", 8);
    REQUIRE(d.pump([&] { return !d.hellos.empty(); }));
    CHECK(d.hellos[0].load_error().code() == error_name(ErrorCode::kPluginLoad));
    d.pump([&] { return !process_alive(d.host); }, 5000);
    CHECK_FALSE(process_alive(d.host));
  }
}
