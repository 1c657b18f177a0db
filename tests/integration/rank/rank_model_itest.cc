// The real bp-rank with the real model: four processes, TP 2 x PP 2 on two nodes.
#include <boost/json.hpp>
#include <catch2/catch.hpp>
#include <signal.h>

#include "engine/base/files.h"
#include "runtime/weights/weight_source.h"
#include "tests/integration/rank/rank_cluster.h"
#include "tests/support/model_harness.h"

using namespace bp;
using namespace bp::rt;
using namespace bp::rt::test;
using Kind = RankGroupEvent::Kind;

namespace {

ClusterOptions real(uint32_t tp, uint32_t pp, bool exact) {
  INFO(bp::test::kModelMissing);
  REQUIRE_FALSE(bp::test::test_model_path().empty());
  auto source = open_weights(bp::test::test_model_path());
  REQUIRE(source.ok());
  auto shards = plan::make_shard_plan((*source)->config().shape, tp, pp);
  REQUIRE(shards.ok());
  ClusterOptions o;
  o.program = std::string(BP_BUILD_DIR) + "/bin/bp-rank";
  o.tp = tp;
  o.pp = pp;
  o.model_path = bp::test::test_model_path();
  o.lease_ms = 2'000;
  o.exact = exact;
  for (const auto& r : shards->ranks) {
    auto* p = o.plan.add_ranks();
    p->set_first_layer(r.layers.begin);
    p->set_layer_count(r.layers.size());
  }
  return o;
}

std::vector<uint32_t> golden(size_t index, const char* what) {
  auto text = read_file(BP_SOURCE_DIR "/tests/golden/goldens.json", 4 << 20);
  REQUIRE(text.ok());
  const auto all = boost::json::parse(*text);
  std::vector<uint32_t> out;
  for (const auto& t : all.as_array().at(index).at(what).as_array()) out.push_back(t.to_number<uint32_t>());
  return out;
}

/// Greedy decoding: `history` grows by `count` tokens. False when the group broke.
bool generate(RankCluster& c, std::vector<uint32_t>& history, size_t count, uint64_t* step_number,
              uint32_t position = 0) {
  for (size_t i = 0; i < count; ++i) {
    std::vector<uint32_t> fresh(history.begin() + position, history.end());
    RankGroupEvent e;
    if (!c.group().send_step(make_step(++*step_number, fresh, position)).ok()) return false;
    if (!c.wait_for(Kind::kStepDone, 30'000, &e)) return false;
    position = static_cast<uint32_t>(history.size());
    history.push_back(e.result.tokens(0).token());
  }
  return true;
}

}  // namespace

TEST_CASE("bp-rank: four processes give the reference's tokens, lose a rank, and a new group goes on with them") {
  RankCluster c(real(2, 2, true));
  c.start({1, 1});
  REQUIRE(c.wait_for(Kind::kServing, 60'000));
  const auto prompt = golden(0, "prompt"), want = golden(0, "tokens");
  auto history = prompt;
  uint64_t step = 0;
  REQUIRE(generate(c, history, 8, &step));

  c.kill(3, SIGKILL);
  (void)c.group().send_step(make_step(step + 1, {history.back()}, static_cast<uint32_t>(history.size() - 1)));
  RankGroupEvent e;
  const int64_t begin = monotonic_ns();
  // No node is here to start it again: the head waits for that before it breaks the group.
  REQUIRE(c.wait_for(Kind::kBroken, 8'000, &e));
  CHECK((monotonic_ns() - begin) / 1'000'000 < 5'000);
  CHECK(e.error.message.find("rank 3") != std::string::npos);
  for (uint32_t r = 0; r < 3; ++r) CHECK(c.wait_exit(r, 5'000) >= 0);

  // The successors find their weights in the nodes' memory and prefill the history again.
  c.start({1, 2});
  REQUIRE(c.wait_for(Kind::kServing, 60'000));
  for (uint32_t r = 0; r < 4; ++r) CHECK(c.log(r).find("reused=true") != std::string::npos);
  step = 0;
  REQUIRE(generate(c, history, 16, &step));
  std::vector<uint32_t> got(history.begin() + static_cast<long>(prompt.size()), history.end());
  CHECK(got == std::vector<uint32_t>(want.begin(), want.begin() + 24));
}

TEST_CASE("bp-rank: the default mode gives the same tokens in one process and in four") {
  std::vector<std::vector<uint32_t>> all;
  for (auto [tp, pp] : {std::pair{1u, 1u}, std::pair{2u, 2u}}) {
    RankCluster c(real(tp, pp, false));
    c.start({1, 1});
    REQUIRE(c.wait_for(Kind::kServing, 60'000));
    auto history = golden(1, "prompt");
    uint64_t step = 0;
    REQUIRE(generate(c, history, 16, &step));
    all.push_back(history);
  }
  CHECK(all[0] == all[1]);
}
