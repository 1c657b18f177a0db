#include "runtime/head/group_members.h"

#include <catch2/catch.hpp>

#include "runtime/comm/rank_protocol.h"

using namespace bp;
using namespace bp::rt;

namespace {

v1::RankHello hello(uint32_t rank, int pid) {
  v1::RankHello h;
  h.set_rank(rank);
  h.set_build_id("b");
  h.set_numerics_class("avx512");
  h.set_model_key("m");
  h.set_protocol(kRankProtocol);
  h.mutable_process()->set_pid(pid);
  return h;
}

}  // namespace

TEST_CASE("group members: a hello said twice keeps its place, another process does not get it") {
  GroupMembers g("b");
  g.expect({1, 1}, 2);
  CHECK(g.admit("x", hello(0, 10), 0).verdict == GroupMembers::Verdict::kJoined);
  CHECK(g.admit("y", hello(0, 10), 0).verdict == GroupMembers::Verdict::kKnown);
  CHECK(g.find("x") == nullptr);
  CHECK(g.find("y") == &g.all()[0]);
  CHECK(g.admit("z", hello(0, 11), 0).verdict == GroupMembers::Verdict::kRefused);
  CHECK(g.admit("z", hello(2, 11), 0).verdict == GroupMembers::Verdict::kRefused);
  CHECK(!g.all_at_least(JoinedRank::State::kJoined));
  CHECK(g.admit("z", hello(1, 11), 0).verdict == GroupMembers::Verdict::kJoined);
  CHECK(g.all_at_least(JoinedRank::State::kJoined));
  CHECK(!g.all_at_least(JoinedRank::State::kLoaded));
}

TEST_CASE("group members: what does not fit is named on both sides, all of it at once") {
  GroupMembers g("b");
  g.expect({1, 1}, 2);
  REQUIRE(g.admit("x", hello(0, 10), 0).verdict == GroupMembers::Verdict::kJoined);
  auto h = hello(1, 11);
  h.set_build_id("c");
  h.set_numerics_class("portable");
  h.set_model_key("n");
  h.set_protocol(99);
  auto a = g.admit("y", h, 0);
  CHECK(a.verdict == GroupMembers::Verdict::kMisfit);
  for (const char* part : {"protocol is \"99\"", "build is \"c\", expected \"b\"", "\"portable\", expected \"avx512\"",
                           "model is \"n\", expected \"m\""}) {
    CHECK(a.reason.find(part) != std::string::npos);
  }
}

TEST_CASE("group members: generations keep who lives, take whom a node vouches for, and no ghosts") {
  using Verdict = GroupMembers::Verdict;
  GroupMembers g("b");
  g.expect({1, 1}, 2);
  REQUIRE(g.admit("x", hello(0, 10), 0).verdict == Verdict::kJoined);
  REQUIRE(g.admit("y", hello(1, 11), 0).verdict == Verdict::kJoined);
  for (auto& m : g.all()) m.welcomed = true;
  g.regroup();
  CHECK(g.generation() == 2);
  CHECK(g.count_at_least(JoinedRank::State::kJoined) == 0);
  CHECK(g.admit("x", hello(0, 10), 1).verdict == Verdict::kLate);   // said before it heard of the generation
  CHECK(g.admit("x", hello(0, 10), 0).verdict == Verdict::kLate);   // said before it was ever welcome
  CHECK(g.admit("x", hello(0, 10), 2).verdict == Verdict::kJoined);
  CHECK(g.admit("x", hello(0, 10), 2).verdict == Verdict::kKnown);
  // Another process for rank 1: only in place of the one that is known, or of nobody.
  auto h = hello(1, 12);
  CHECK(g.admit("z", h, 0).verdict == Verdict::kRefused);
  h.mutable_replaces()->set_pid(99);
  CHECK(g.admit("z", h, 0).verdict == Verdict::kRefused);
  h.mutable_replaces()->set_pid(11);
  CHECK(g.admit("z", h, 0).verdict == Verdict::kReplaces);
  g.forget(1);
  CHECK(g.admit("y", hello(1, 11), 1).verdict == Verdict::kRefused);   // lost, and back from a long stop
  CHECK(g.admit("z", h, 0).verdict == Verdict::kJoined);
  CHECK(g.all_at_least(JoinedRank::State::kJoined));
}
