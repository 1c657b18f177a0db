// Groups of real rank processes: forming, stepping, forming again, refusing.
#include <arpa/inet.h>
#include <catch2/catch.hpp>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "tests/integration/rank/rank_cluster.h"

using namespace bp;
using namespace bp::rt;
using namespace bp::rt::test;
using Kind = RankGroupEvent::Kind;

namespace {

ClusterOptions small(uint32_t tp = 2, uint32_t pp = 2) {
  ClusterOptions o;
  o.program = std::string(BP_BUILD_DIR) + "/tests/small_rank";
  o.tp = tp;
  o.pp = pp;
  return o;
}

// What small_rank makes of tokens at a position: see there.
uint32_t expected_token(const std::vector<uint32_t>& tokens, uint32_t position, uint32_t tp, uint32_t pp) {
  uint32_t sum = position * (tp * (tp - 1) / 2);
  for (uint32_t t : tokens) sum += t;
  return sum + pp;
}

Fd dial_plain(const std::string& endpoint) {  // "tcp://A:P"
  auto colon = endpoint.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(endpoint.substr(colon + 1))));
  ::inet_pton(AF_INET, endpoint.substr(6, colon - 6).c_str(), &to.sin_addr);
  Fd s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::connect(s.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
  return s;
}

}  // namespace

TEST_CASE("ranks: four on two nodes form a group and answer outstanding steps in order") {
  auto layout = GENERATE(std::pair<uint32_t, uint32_t>{2, 2}, std::pair<uint32_t, uint32_t>{3, 1},
                         std::pair<uint32_t, uint32_t>{1, 3}, std::pair<uint32_t, uint32_t>{1, 1});
  auto [tp, pp] = layout;
  RankCluster c(small(tp, pp));
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  v1::HeadStatus status;
  c.group().fill_status(&status);
  CHECK(status.serving());
  CHECK(status.ranks_joined() == tp * pp);
  CHECK(status.ranks_loaded() == tp * pp);
  CHECK(status.ranks(0).state() == "loaded");
  CHECK(status.ranks(0).bytes_loaded() == status.ranks(0).bytes_total());
  constexpr uint64_t kSteps = 40;
  for (uint64_t n = 1; n <= kSteps; ++n) {
    REQUIRE(c.group().send_step(make_step(n, {uint32_t(n), 7, 9}, uint32_t(n))).ok());
  }
  for (uint64_t n = 1; n <= kSteps; ++n) {
    // Several may come in one poll: take them singly.
    static std::vector<RankGroupEvent> got;
    Deadline deadline = Deadline::in_ms(10'000);
    while (got.empty() && !deadline.passed()) got = c.group().poll(deadline);
    REQUIRE(!got.empty());
    REQUIRE(got[0].kind == Kind::kStepDone);
    CHECK(got[0].result.number() == n);
    REQUIRE(got[0].result.tokens_size() == 1);
    CHECK(got[0].result.tokens(0).token() == expected_token({uint32_t(n), 7, 9}, uint32_t(n), tp, pp));
    got.erase(got.begin());
  }
  c.group().shutdown("the test is over");
  for (uint32_t r = 0; r < tp * pp; ++r) CHECK(c.wait_exit(r, 5'000) == 0);
}

TEST_CASE("ranks: a new epoch ends the old group, and its ranks find their weights in place and sealed") {
  RankCluster c(small());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  const int seals = ::fcntl(c.weights(0).get(), F_GET_SEALS);
  CHECK((seals & F_SEAL_FUTURE_WRITE) != 0);
  CHECK((seals & F_SEAL_SHRINK) != 0);
  auto old = c.process(0);
  CHECK(c.group().expect_group({1, 0}, c.plan()).error().code == ErrorCode::kStaleEpoch);
  CHECK(c.group().expect_group({1, 1}, c.plan()).ok());
  CHECK(c.group().serving());
  REQUIRE(c.group().expect_group({1, 2}, c.plan()).ok());
  CHECK(!c.group().serving());
  for (uint32_t r = 0; r < 4; ++r) CHECK(c.wait_exit(r, 5'000) == 0);
  c.start({1, 2});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  for (uint32_t r = 0; r < 4; ++r) CHECK(c.log(r).find("rank.ended") != std::string::npos);
  REQUIRE(c.group().send_step(make_step(1, {5})).ok());
  RankGroupEvent e;
  REQUIRE(c.wait_for(Kind::kStepDone, 5'000, &e));
  CHECK(e.epoch == Epoch{1, 2});
  CHECK(e.result.tokens(0).token() == 7);
}

TEST_CASE("ranks: strangers on the rendezvous port harm nobody") {
  RankCluster c(small());
  std::vector<Fd> strangers;
  for (int i = 0; i < 30; ++i) {
    strangers.push_back(dial_plain(c.group().endpoint()));
    std::string garbage(i * 100, static_cast<char>(i * 17));
    (void)!::send(strangers.back().get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
  }
  // One with a key of its own, saying what a rank would say.
  bus::DialOptions dial;
  dial.endpoint = c.group().endpoint();
  dial.keys = bus::make_key_pair();
  dial.server_public_key = c.head_keys().public_key;
  auto stranger = bus::Dealer::dial(c.context(), dial);
  REQUIRE(stranger.ok());
  v1::RankMessage m;
  m.mutable_group_epoch()->set_incarnation(1);
  m.mutable_group_epoch()->set_counter(1);
  m.mutable_hello()->set_rank(0);
  REQUIRE((*stranger)->send(m.SerializeAsString()).ok());
  // And one with the ranks' key that talks nonsense.
  dial.keys = c.rank_keys();
  auto drunk = bus::Dealer::dial(c.context(), dial);
  REQUIRE(drunk.ok());
  for (int i = 0; i < 20; ++i) REQUIRE((*drunk)->send(std::string(i * 50, static_cast<char>(200 + i))).ok());
  m.clear_hello();
  m.mutable_step_result()->set_number(1);
  REQUIRE((*drunk)->send(m.SerializeAsString()).ok());
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  REQUIRE((*drunk)->send(m.SerializeAsString()).ok());
  REQUIRE(c.group().send_step(make_step(1, {5})).ok());
  CHECK(c.wait_for(Kind::kStepDone, 5'000));
}

TEST_CASE("ranks: one of an older epoch is told to end; a second one for a place is refused") {
  RankCluster c(small(1, 2));
  c.start({1, 5});
  REQUIRE(c.wait_for(Kind::kServing, 20'000));
  auto first = c.process(0);
  c.start_rank(0, {1, 4});
  CHECK(c.wait_exit(0, 5'000) == 0);
  CHECK(c.log(0).find("epoch 1.5 has taken over") != std::string::npos);
  c.start_rank(0, {1, 5});
  CHECK(c.wait_exit(0, 5'000) == 0);
  CHECK(c.log(0).find("has joined already") != std::string::npos);
  CHECK(process_alive(first));
  REQUIRE(c.group().send_step(make_step(1, {5})).ok());
  CHECK(c.wait_for(Kind::kStepDone, 5'000));
  REQUIRE(process_signal(first, 9).ok());
  (void)process_wait_gone(first, Deadline::in_ms(2'000));
}

TEST_CASE("ranks: another model or build than the group's is refused with what differs") {
  SECTION("model") {
    RankCluster c(small(1, 2));
    c.start({1, 1}, {"none", "another"});
    RankGroupEvent e;
    REQUIRE(c.wait_for(Kind::kBroken, 10'000, &e));
    CHECK(e.error.code == ErrorCode::kProtocol);
    CHECK(e.error.message.find("small:another") != std::string::npos);
    CHECK(e.error.message.find("small:none") != std::string::npos);
  }
  SECTION("build") {
    auto o = small(1, 1);
    o.rank_build_id = "0.0.1+other";
    RankCluster c(o);
    c.start({1, 1});
    RankGroupEvent e;
    REQUIRE(c.wait_for(Kind::kBroken, 10'000, &e));
    CHECK(e.error.message.find("0.0.1+other") != std::string::npos);
    CHECK(c.wait_exit(0, 5'000) == 0);
  }
}
