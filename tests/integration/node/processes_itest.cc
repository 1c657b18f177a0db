#include <signal.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "engine/base/files.h"
#include "engine/node/convert.h"
#include "tests/integration/node/node_harness.h"

using namespace bp;
using bp::test::NodeHarness;
using bp::test::segment;

namespace {
bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
}  // namespace

TEST_CASE("node: it greets with its inventory and starts a process once per key and epoch") {
  NodeHarness h;
  h.start_agent();
  auto hello = h.wait_hello();
  CHECK(hello.node_id() == "n1-0");
  CHECK(hello.inventory().cores() == 2);
  CHECK(hello.inventory().disk_free_bytes() > 0);
  CHECK(!hello.inventory().host_identity().empty());
  auto first = h.start("rank-0", 5, "print hello world\n");
  REQUIRE(!first.has_error());
  auto again = h.start("rank-0", 5, "print hello world\n");
  CHECK(again.started().identity().pid() == first.started().identity().pid());
  CHECK(h.processes().size() == 1);
  const std::string log = h.wait_log("rank-0", "ready");
  CHECK(contains(log, "sealed=1"));
  CHECK(contains(log, "key=rank-0 epoch=1.5"));
  CHECK(contains(log, "hello world"));
  CHECK(h.processes()[0].labels().at("tp_rank") == "0");
}

TEST_CASE(
    "node: a newer epoch replaces a process after its death, an older one is refused for ever") {
  NodeHarness h;
  h.start_agent();
  const auto old = node::from_proto(h.start("rank-0", 5, "ignore-term\n").started().identity());
  auto next = h.start("rank-0", 6, "");
  REQUIRE(!next.has_error());
  CHECK(!process_alive(old));
  CHECK(h.wait_ended("rank-0").reason() == "replaced under epoch 1.6");
  CHECK(h.start("rank-0", 5, "").error().code() == "BP_STALE_EPOCH");
  CHECK(h.stop("rank-0", 5, 0).error().code() == "BP_STALE_EPOCH");
  h.kill_agent();
  h.start_agent();
  h.wait_hello();
  CHECK(h.start("rank-1", 5, "").error().code() == "BP_STALE_EPOCH");
  CHECK(h.processes().size() == 1);
}

TEST_CASE("node: an agent's successor adopts its processes, segments and leases") {
  NodeHarness h;
  h.start_agent();
  auto head = h.start("head", 1, "").started();
  auto rank = h.start("rank-0", 1, "lease 600000\nput 0 weights\nput 1 pages\n",
                      {segment("weights-0", 0, false), segment("comm-0", 4096, true)}, true)
                  .started();
  h.wait_log("rank-0", "ready");
  h.kill_agent();
  CHECK(process_alive(node::from_proto(head.identity())));
  CHECK(process_alive(node::from_proto(rank.identity())));
  h.start_agent();
  auto hello = h.wait_hello();
  REQUIRE(hello.processes_size() == 2);
  CHECK(hello.processes(0).adopted());
  CHECK(hello.processes(1).identity().pid() == rank.identity().pid());
  CHECK(h.start("rank-0", 1, "").started().identity().pid() == rank.identity().pid());
  // The same memory under a newer epoch; what goes with the epoch is new.
  REQUIRE(!h.start("rank-0", 2, "show 0\nshow 1\n",
                   {segment("weights-0", 0, false), segment("comm-0", 4096, true)}, true)
               .has_error());
  const std::string log = h.wait_log("rank-0", "segment 1");
  CHECK(contains(log, "segment 0: size 7 \"weights\""));
  CHECK(contains(log, "segment 1: size 4096 \"\""));
  auto ended = h.wait_ended("rank-0");
  CHECK(ended.exit_code() == -1);
}

TEST_CASE("node: kept memory survives its process, and a wrong descriptor is not taken for it") {
  NodeHarness h;
  h.start_agent();
  h.start("rank-0", 1, "put 0 kept\n", {segment("kv-0", 4096, false)});
  h.wait_log("rank-0", "ready");
  REQUIRE(!h.stop("rank-0", 1, 0).has_error());
  h.start("rank-0", 1, "show 0\nclose 0\n", {segment("kv-0", 4096, false)});
  CHECK(contains(h.wait_log("rank-0", "segment 0"), "\"kept\""));
  h.kill_agent();  // now nobody holds it
  h.start_agent();
  h.wait_hello();
  h.start("rank-0", 2, "show 0\nprint second\n", {segment("kv-0", 4096, false)});
  CHECK(contains(h.wait_log("rank-0", "second"), "segment 0: size 4096 \"\""));
}

TEST_CASE("node: the ends of processes are told until they are acknowledged, over agents too") {
  NodeHarness h;
  h.acknowledge = false;
  h.start_agent();
  h.start("rank-0", 1, "print last words\nexit 7\n");
  auto ended = h.wait_ended("rank-0");
  CHECK(ended.exit_code() == 7);
  CHECK(ended.reason() == "exited");
  CHECK(contains(ended.log_tail(), "last words"));
  h.ended.clear();
  h.wait_ended("rank-0");
  auto other = h.start("rank-1", 1, "").started();
  h.kill_agent();
  REQUIRE(process_signal(node::from_proto(other.identity()), SIGKILL).ok());
  REQUIRE(process_wait_gone(node::from_proto(other.identity()), Deadline::in_ms(5000)).ok());
  h.ended.clear();
  h.start_agent();
  CHECK(h.wait_ended("rank-0").exit_code() == 7);
  CHECK(h.wait_ended("rank-1").reason() == "ended while no agent ran");
  h.acknowledge = true;
  h.pump(1200);
  h.ended.clear();
  h.pump(1200);
  CHECK(h.ended.empty());
}

TEST_CASE("node: stopping asks, then kills, and proves it; a process gone is no error") {
  NodeHarness h;
  h.start_agent();
  h.start("rank-0", 1, "");
  h.wait_log("rank-0", "ready");
  CHECK(!h.stop("rank-0", 1, 5'000).has_error());
  CHECK(h.wait_ended("rank-0").signal() == SIGTERM);
  const auto stubborn =
      node::from_proto(h.start("rank-1", 1, "ignore-term\n").started().identity());
  h.wait_log("rank-1", "ready");
  CHECK(!h.stop("rank-1", 1, 100).has_error());
  CHECK(!process_alive(stubborn));
  CHECK(h.wait_ended("rank-1").signal() == SIGKILL);
  CHECK(h.wait_ended("rank-1").reason() == "stopped on request");
  CHECK(!h.stop("rank-1", 1, 100).has_error());
  CHECK(h.processes().empty());
}

TEST_CASE(
    "node: a process whose lease lapses is killed, also by a successor, one without a lease yet is "
    "not") {
  NodeHarness h;
  h.start_agent();
  h.start("rank-0", 1, "lease 300\n", {}, true);
  h.start("rank-1", 1, "", {}, true);
  CHECK(h.wait_ended("rank-0").reason() == "killed: lease lapsed");
  CHECK(h.processes().size() == 1);
  h.start("rank-2", 1, "lease 1500\n", {}, true);
  h.kill_agent();
  h.start_agent();
  CHECK(h.wait_ended("rank-2").reason() == "killed: lease lapsed");
}

TEST_CASE("node: what makes no sense is refused with its reason, and nothing is started") {
  NodeHarness h;
  h.start_agent();
  v1::NodeCommand c;
  c.mutable_start()->set_process_key("rank-0");
  c.mutable_start()->set_program("/bin/sh");
  CHECK(h.call(c, 1).error().code() == "BP_INVALID_ARGUMENT");
  c.mutable_start()->set_program("bp-rank");
  c.mutable_start()->set_process_key("../up");
  CHECK(h.call(c, 1).error().code() == "BP_INVALID_ARGUMENT");
  c.mutable_start()->set_process_key("rank-0");
  (*c.mutable_start()->mutable_env())["A=B"] = "x";
  CHECK(h.call(c, 1).error().code() == "BP_INVALID_ARGUMENT");
  CHECK(h.start("rank-0", 1, "", {segment("../x", 1, false)}).error().code() ==
        "BP_INVALID_ARGUMENT");
  CHECK(h.call(v1::NodeCommand(), 1).error().code() == "BP_PROTOCOL");
  v1::NodeCommand other_run;
  other_run.set_run_id("run-2");
  other_run.mutable_list();
  CHECK(h.call(other_run, 1).error().code() == "BP_CONFLICT");
  v1::NodeCommand log;
  log.mutable_read_log()->set_process_key("../agent");
  CHECK(h.call(log, 1).error().code() == "BP_INVALID_ARGUMENT");
  log.mutable_read_log()->set_process_key("rank-9");
  CHECK(h.call(log, 1).error().code() == "BP_NOT_FOUND");
  CHECK(h.processes().empty());
}

TEST_CASE("node: garbage on its socket changes nothing") {
  NodeHarness h;
  h.start_agent();
  h.start("rank-0", 1, "");
  for (size_t n : {0u, 1u, 100u, 100'000u}) {
    std::string junk(n, '\0');
    for (size_t i = 0; i < n; ++i) junk[i] = static_cast<char>(i * 2654435761u >> 13);
    h.send_raw(junk);
  }
  CHECK(h.processes().size() == 1);
}

TEST_CASE("node: only one agent serves a folder") {
  NodeHarness h;
  h.start_agent();
  h.wait_hello();
  auto second = h.spawn_agent("second.log");
  CHECK(process_wait_gone(second, Deadline::in_ms(10'000)).ok());
  const std::string log = read_file(h.dir / "second.log", 1 << 20).value();
  CHECK(contains(log, "another bp-node (pid " + std::to_string(h.agent.pid) + ")"));
  CHECK(h.processes().empty());
}

TEST_CASE("node: a daemon that comes back with another key and port is found again") {
  NodeHarness h;
  h.start_agent();
  h.start("rank-0", 1, "");
  h.listen();
  auto hello = h.wait_hello();
  CHECK(hello.processes_size() == 1);
  CHECK(h.processes().size() == 1);
}

TEST_CASE("node: releasing stops all, removes the folder, keeps the cache and ends the agent") {
  NodeHarness h;
  h.start_agent();
  const auto rank = node::from_proto(h.start("rank-0", 1, "ignore-term\n").started().identity());
  h.start("head", 1, "");
  v1::NodeCommand c;
  c.mutable_release()->set_grace_ms(200);
  auto r = h.call(c, 2);
  CHECK(!r.has_error());
  CHECK(!process_alive(rank));
  CHECK(process_wait_gone(h.agent, Deadline::in_ms(5000)).ok());
  struct stat st {};
  CHECK(::stat(h.work_dir.c_str(), &st) != 0);
  CHECK(::stat(h.cache_dir.c_str(), &st) == 0);
}

TEST_CASE(
    "node: an agent killed at any moment of a start leaves no process unknown and none twice") {
  NodeHarness h;
  h.start_agent();
  h.wait_hello();
  uint64_t epoch = 1;
  for (int round = 0; round < 12; ++round) {
    ++epoch;
    v1::NodeCommand c;
    c.mutable_start()->set_process_key("rank-0");
    c.mutable_start()->set_program("bp-rank");
    h.post(c, epoch);
    h.pump(round);  // milliseconds: some kills come before the fork, some in it, some after it
    h.kill_agent();
    CHECK(h.marked().size() <= 1);
    h.start_agent();
    h.wait_hello();
    auto listed = h.processes();
    auto there = h.marked();
    REQUIRE(listed.size() == there.size());
    if (!there.empty()) CHECK(node::from_proto(listed[0].identity()) == there[0]);
  }
  REQUIRE(!h.start("rank-0", epoch + 1, "").has_error());
  CHECK(h.marked().size() == 1);
}

namespace {

v1::NodeCommandReply start_restartable(NodeHarness& h, const std::string& config, uint64_t epoch = 1) {
  v1::NodeCommand c;
  auto* s = c.mutable_start();
  s->set_process_key("rank-0");
  s->set_role(v1::PROCESS_ROLE_RANK);
  s->set_program("bp-rank");
  s->set_config(config);
  s->set_restart(true);
  s->add_no_restart(7);
  *s->add_segments() = segment("kv-0", 4096, false);
  return h.call(c, epoch);
}

}  // namespace

TEST_CASE("node: a killed process is started again under its epoch, over the same memory, and so told") {
  NodeHarness h;
  h.start_agent();
  const auto first = node::from_proto(start_restartable(h, "put 0 kept\nshow 0\n").started().identity());
  h.wait_log("rank-0", "ready");
  REQUIRE(process_signal(first, SIGKILL).ok());
  auto ended = h.wait_ended("rank-0");
  CHECK(ended.signal() == SIGKILL);
  REQUIRE(ended.has_restarted());
  CHECK(ended.restarted().epoch().counter() == 1);
  const auto second = node::from_proto(ended.restarted().identity());
  CHECK(second != first);
  CHECK(process_alive(second));
  CHECK(contains(h.wait_log("rank-0", "replaces=" + std::to_string(first.pid) + ":"), "whole=1"));
  CHECK(h.processes().size() == 1);
  // An agent that adopted it can do the same, though it cannot know how the old one ended.
  h.kill_agent();
  h.start_agent();
  h.wait_hello();
  h.ended.clear();
  REQUIRE(process_signal(second, SIGKILL).ok());
  ended = h.wait_ended("rank-0");
  REQUIRE(ended.has_restarted());
  CHECK(contains(h.wait_log("rank-0", "replaces=" + std::to_string(second.pid) + ":"), "whole=0"));
  // Asked to, it goes; a newer epoch replaces it once.
  REQUIRE(!start_restartable(h, "", 2).has_error());
  CHECK(h.processes()[0].epoch().counter() == 2);
  h.ended.clear();
  REQUIRE(!h.stop("rank-0", 2, 1'000).has_error());
  CHECK(!h.wait_ended("rank-0").has_restarted());
  CHECK(h.processes().empty());
}

TEST_CASE("node: what ends by itself too often, or by a status that says so, is not started again") {
  NodeHarness h;
  h.start_agent();
  SECTION("status") {
    REQUIRE(!start_restartable(h, "exit 7\n").has_error());
    CHECK(!h.wait_ended("rank-0").has_restarted());
  }
  SECTION("too often") {
    REQUIRE(!start_restartable(h, "exit 5\n").has_error());
    const Deadline deadline = Deadline::in_ms(10'000);
    const auto last_one = [&] { return !h.ended.empty() && !h.ended.back().has_restarted(); };
    while (!last_one() && !deadline.passed()) h.pump(20);
    REQUIRE(last_one());
    CHECK(h.ended.back().exit_code() == 5);
  }
  CHECK(h.processes().empty());
}
