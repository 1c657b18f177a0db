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

TEST_CASE("ranks: a killed rank breaks the group at once, named, and the others end by themselves") {
  RankCluster c(small());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  REQUIRE(c.group().send_step(make_step(1, {5})).ok());
  REQUIRE(c.wait_for(Kind::kStepDone, 5'000));
  const uint32_t victim = GENERATE(0u, 3u);
  c.kill(victim, SIGKILL);
  int64_t begin = monotonic_ns();
  (void)c.group().send_step(make_step(2, {5}));
  RankGroupEvent e;
  REQUIRE(c.wait_for(Kind::kBroken, 5'000, &e));
  CHECK((monotonic_ns() - begin) / 1'000'000 < 1'000);
  CHECK(e.error.code == ErrorCode::kPeerLost);
  CHECK(e.error.message.find("rank " + std::to_string(victim)) != std::string::npos);
  for (uint32_t r = 0; r < 4; ++r) {
    if (r == victim) continue;
    int status = c.wait_exit(r, 3'000);
    CHECK((status == kExitDone || status == kExitGroup));
  }
  v1::HeadStatus status;
  c.group().fill_status(&status);
  CHECK(!status.serving());
  CHECK(status.group_error().code() == "BP_PEER_LOST");
  CHECK(c.group().send_step(make_step(3, {5})).error().code == ErrorCode::kConflict);
  // Its successor group works.
  c.start({1, 2});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  REQUIRE(c.group().send_step(make_step(1, {5})).ok());
  CHECK(c.wait_for(Kind::kStepDone, 5'000));
}

TEST_CASE("ranks: an idle group notices a killed rank by its connection or its silence") {
  RankCluster c(small());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  c.kill(2, SIGKILL);
  RankGroupEvent e;
  REQUIRE(c.wait_for(Kind::kBroken, 2'000, &e));
  CHECK(e.error.message.find("rank 2 (n9-1)") != std::string::npos);
}

TEST_CASE("ranks: a stopped rank is lost after three beats and ends when it goes on") {
  RankCluster c(small());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  c.kill(1, SIGSTOP);
  RankGroupEvent e;
  int64_t begin = monotonic_ns();
  REQUIRE(c.wait_for(Kind::kBroken, 4'000, &e));
  CHECK((monotonic_ns() - begin) / 1'000'000 < 1'500);
  CHECK(e.error.message.find("rank 1 (n9-0) was silent") != std::string::npos);
  ::usleep(500'000);
  c.kill(1, SIGCONT);
  int status = c.wait_exit(1, 3'000);
  CHECK((status == kExitDone || status == kExitLease || status == kExitGroup));
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
