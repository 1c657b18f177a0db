// Groups of real rank processes that break: killed, stopped, left alone.
#include <catch2/catch.hpp>
#include <signal.h>

#include "runtime/rank/exit_codes.h"
#include "tests/integration/rank/rank_cluster.h"

using namespace bp;
using namespace bp::rt;
using namespace bp::rt::test;
using Kind = RankGroupEvent::Kind;

namespace {

ClusterOptions small() {
  ClusterOptions o;
  o.program = std::string(BP_BUILD_DIR) + "/tests/small_rank";
  return o;
}

}  // namespace

TEST_CASE("ranks: a killed rank is replaced, the others live on, and uncommitted steps are done once") {
  RankCluster c(small());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  const uint32_t victim = GENERATE(0u, 2u, 3u);
  uint64_t sent = 0, done = 0;
  const auto token_of = [](uint64_t n) { return static_cast<uint32_t>(n) + 2; };   // small_rank with two stages
  const auto send = [&] {
    ++sent;
    REQUIRE(c.group().send_step(make_step(sent, {static_cast<uint32_t>(sent)})).ok());
  };
  const auto take = [&](int64_t ms) {
    Deadline deadline = Deadline::in_ms(ms);
    while (done < sent && !deadline.passed()) {
      for (auto& e : c.group().poll(deadline)) {
        INFO(e.error.to_string());
        REQUIRE(e.kind == Kind::kStepDone);   // nobody hears of the loss
        ++done;
        CHECK(e.result.number() == done);
        CHECK(e.result.tokens(0).token() == token_of(done));
      }
    }
    for (uint32_t r = 0; r < 4; ++r) UNSCOPED_INFO("rank " << r << ": " << c.log(r));
    REQUIRE(done == sent);
  };
  for (int i = 0; i < 5; ++i) send();
  take(5'000);
  const ProcessId others[] = {c.process(0), c.process(1), c.process(2), c.process(3)};
  for (int round = 0; round < 3; ++round) {
    send();
    c.kill(victim, SIGKILL);
    send();
    c.restart_rank(victim, {1, 1}, true);
    CHECK(c.group().serving());
    send();   // it waits for the next generation
    const int64_t begin = monotonic_ns();
    take(3'000);
    CHECK((monotonic_ns() - begin) / 1'000'000 < 1'500);
  }
  v1::HeadStatus status;
  c.group().fill_status(&status);
  CHECK(status.serving());
  CHECK(status.group_generation() >= 4);
  for (uint32_t r = 0; r < 4; ++r) CHECK((r == victim || process_alive(others[r])));
}

TEST_CASE("ranks: where the dead one's memory cannot be believed, the engine hears that all starts again") {
  RankCluster c(small());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  REQUIRE(c.group().send_step(make_step(1, {5})).ok());
  REQUIRE(c.wait_for(Kind::kStepDone, 5'000));
  c.kill(2, SIGKILL);
  c.restart_rank(2, {1, 1}, false);
  RankGroupEvent e;
  REQUIRE(c.wait_for(Kind::kBroken, 5'000, &e));
  CHECK(e.error.code == ErrorCode::kPeerLost);
  CHECK(e.error.message.find("rank 2") != std::string::npos);
  CHECK(c.group().serving());
  REQUIRE(c.group().send_step(make_step(1, {6})).ok());   // numbers start again
  REQUIRE(c.wait_for(Kind::kStepDone, 5'000, &e));
  CHECK(e.result.tokens(0).token() == 8);
}

TEST_CASE("ranks: a stopped rank is killed after three beats, and its memory is not believed") {
  RankCluster c(small());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  const ProcessId stopped = c.process(1);
  c.kill(1, SIGSTOP);
  const int64_t begin = monotonic_ns();
  REQUIRE(c.group().send_step(make_step(1, {5})).ok());
  while (process_alive(stopped) && monotonic_ns() - begin < 3'000'000'000) (void)c.group().poll(Deadline::in_ms(10));
  CHECK((monotonic_ns() - begin) / 1'000'000 < 1'000);
  c.restart_rank(1, {1, 1}, true);
  RankGroupEvent e;
  REQUIRE(c.wait_for(Kind::kBroken, 5'000, &e));
  CHECK(e.error.message.find("rank 1 (n9-0) was silent") != std::string::npos);
  CHECK(c.group().serving());
}

TEST_CASE("ranks: a group whose lost rank does not come back breaks, named, and the others end") {
  RankCluster c(small());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  c.kill(2, SIGKILL);
  RankGroupEvent e;
  const int64_t begin = monotonic_ns();
  REQUIRE(c.wait_for(Kind::kBroken, 6'000, &e));
  CHECK((monotonic_ns() - begin) / 1'000'000 < 5'000);
  CHECK(e.error.code == ErrorCode::kPeerLost);
  CHECK(e.error.message.find("rank 2 (n9-1)") != std::string::npos);
  for (uint32_t r : {0u, 1u, 3u}) CHECK(c.wait_exit(r, 3'000) == kExitDone);
  v1::HeadStatus status;
  c.group().fill_status(&status);
  CHECK(!status.serving());
  CHECK(status.group_error().code() == "BP_PEER_LOST");
  CHECK(c.group().send_step(make_step(1, {5})).error().code == ErrorCode::kConflict);
  // Its successor group works.
  c.start({1, 2});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  REQUIRE(c.group().send_step(make_step(1, {5})).ok());
  CHECK(c.wait_for(Kind::kStepDone, 5'000));
}

TEST_CASE("ranks: a head that was stopped for less than a lease blames nobody") {
  RankCluster c(small());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  const ProcessId before[] = {c.process(0), c.process(1), c.process(2), c.process(3)};
  ::usleep(600'000);   // of a lease of a second; three beats are 375 ms
  REQUIRE(c.group().send_step(make_step(1, {5})).ok());
  RankGroupEvent e;
  REQUIRE(c.wait_for(Kind::kStepDone, 5'000, &e));
  v1::HeadStatus status;
  c.group().fill_status(&status);
  CHECK(status.group_generation() == 1);
  for (const auto& p : before) CHECK(process_alive(p));
}

TEST_CASE("ranks: a silent head lets the leases lapse, and the ranks stop") {
  RankCluster c(small());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  int64_t begin = monotonic_ns();
  for (uint32_t r = 0; r < 4; ++r) {
    int status = c.wait_exit(r, 3'000, /*polling=*/false);
    CHECK((status == kExitLease || status == kExitGroup));   // the first to stop may be noticed by the next
    CHECK(c.log(r).find(status == kExitLease ? "the lease lapsed" : "rank.failed") != std::string::npos);
  }
  CHECK((monotonic_ns() - begin) / 1'000'000 < 2'000);
}
