// Blocks that several sequences have, by their tokens or as choices of one prompt.
#include "runtime/sched/block_pool.h"
#include "tests/unit/sched/world.h"

namespace bp::rt {
namespace {

SchedulerOptions roomy() {
  auto o = small_options();
  o.kv_blocks = 64;
  o.stages = 1;
  o.max_batch_tokens = o.mixed_batch_tokens = 64;
  return o;
}

}  // namespace

TEST_CASE("a pool finds a block only behind the same tokens", "[sched]") {
  BlockPool pool(3, 2);
  const std::vector<uint32_t> ab{1, 2}, cd{3, 4};
  const uint32_t first = *pool.take();
  const uint64_t content = pool.publish(first, BlockPool::kNoContent, ab);
  const uint32_t second = *pool.take();
  pool.publish(second, content, cd);
  CHECK(pool.find(BlockPool::kNoContent, ab)->block == first);
  CHECK(pool.find(content, cd)->block == second);
  CHECK(!pool.find(BlockPool::kNoContent, cd));
  CHECK(!pool.find(content, ab));
  const uint32_t third = *pool.take();
  CHECK(pool.publish(third, BlockPool::kNoContent, ab) == content);  // the first stays the one
  CHECK(pool.find(BlockPool::kNoContent, ab)->block == first);
  CHECK(!pool.take());
  pool.release(second);
  pool.release(first);
  CHECK(pool.available() == 2);
  CHECK(*pool.take() == second);  // was released first: the end of a prefix goes before its beginning
  CHECK(!pool.find(content, cd));
  CHECK(pool.find(BlockPool::kNoContent, ab)->block == first);
  pool.hold(first);
  CHECK(pool.available() == 0);
  CHECK(!pool.take());
}

TEST_CASE("a prompt that was computed before is found again", "[sched]") {
  World w(roomy());
  REQUIRE(w.arrive(request(1, 30, 3)).ok());
  w.run_dry();
  SequenceRequest again = request(2, 0, 3);
  again.prompt = request(1, 30, 3).prompt;
  again.prompt.resize(40, 7);
  REQUIRE(w.arrive(again).ok());
  w.run_dry();
  CHECK(w.scheduler->counters().shared_tokens == 28);  // 7 whole blocks
  CHECK(w.tokens[2] == expected_tokens(again));
  SequenceRequest off = again;  // differs in its first token: nothing is shared
  off.id = 3;
  off.prompt[0] ^= 1;
  REQUIRE(w.arrive(off).ok());
  w.run_dry();
  CHECK(w.scheduler->counters().shared_tokens == 28);
  CHECK(w.tokens[3] == expected_tokens(off));
}

TEST_CASE("a prompt of whole blocks computes its last token into a copy", "[sched]") {
  World w(roomy());
  REQUIRE(w.arrive(request(1, 32, 3)).ok());
  w.run_dry();
  SequenceRequest again = request(2, 0, 3);
  again.prompt = request(1, 32, 3).prompt;
  REQUIRE(w.arrive(again).ok());
  REQUIRE(w.send());
  CHECK(w.steps.back().copies_size() == 1);
  CHECK(w.steps.back().sequences(0).position() == 31);
  w.run_dry();
  CHECK(w.tokens[2] == w.tokens[1]);
}

TEST_CASE("choices compute their prompt once and copy its last block", "[sched]") {
  for (uint32_t prompt : {1u, 4u, 5u, 31u, 32u, 33u}) {
    INFO("prompt of " << prompt);
    World w(roomy());
    std::vector<SequenceRequest> choices;
    for (uint64_t id = 1; id <= 4; ++id) {
      SequenceRequest r = request(id, 0, 6);
      r.prompt = request(9, prompt, 1).prompt;
      if (id > 1) r.same_prompt_as = 1;
      choices.push_back(r);
    }
    REQUIRE(w.scheduler->arrive(choices, w.now_ns).ok());
    REQUIRE(w.send());
    CHECK(w.steps[0].sequences_size() == 1);
    REQUIRE(w.finish_one());
    REQUIRE(w.send());
    CHECK(w.steps[1].sequences_size() == 4);
    CHECK(w.steps[1].copies_size() == ((prompt - 1) % 4 ? 3 : 0));
    w.run_dry();
    for (const auto& r : choices) CHECK(w.tokens[r.id] == expected_tokens(r));
    CHECK(w.scheduler->counters().shared_tokens == 3 * (prompt - 1));
    CHECK(w.scheduler->free_blocks() == 64);
  }
}

TEST_CASE("a block that an uncommitted step copies is kept until the step is done", "[sched]") {
  auto o = roomy();
  o.kv_blocks = 10;
  o.stages = 2;
  o.step_overhead_tokens = 100;
  World w(o);
  SequenceRequest first = request(1, 8, 1), again = request(2, 0, 3), large = request(3, 31, 1);
  again.prompt = first.prompt;
  REQUIRE(w.arrive(first).ok());
  w.run_dry();
  REQUIRE(w.arrive(again).ok());
  REQUIRE(w.send());
  REQUIRE(w.sent[0].copies_size() == 1);
  REQUIRE(w.arrive(large).ok());  // has room only once the copied block is free
  w.send();
  w.forget_results(2);
  w.run_dry();
  CHECK(w.tokens[2] == expected_tokens(again));
  CHECK(w.tokens[3] == expected_tokens(large));
}

TEST_CASE("choices whose first one is cancelled compute for themselves", "[sched]") {
  World w(roomy());
  SequenceRequest first = request(1, 20, 6), second = request(2, 0, 6);
  second.prompt = first.prompt;
  second.same_prompt_as = 1;
  REQUIRE(w.scheduler->arrive({first, second}, w.now_ns).ok());
  w.scheduler->cancel(1);
  w.run_dry();
  CHECK(w.tokens[2] == expected_tokens(second));
}

TEST_CASE("a choice that names another prompt shares nothing of it", "[sched]") {
  World w(roomy());
  SequenceRequest first = request(1, 20, 6), second = request(2, 20, 6);
  second.same_prompt_as = 1;
  REQUIRE(w.scheduler->arrive({first, second}, w.now_ns).ok());
  w.run_dry();
  CHECK(w.tokens[2] == expected_tokens(second));
}

TEST_CASE("without sharing every prompt is computed", "[sched]") {
  auto o = roomy();
  o.prefix_sharing = false;
  World w(o);
  REQUIRE(w.arrive(request(1, 30, 3)).ok());
  w.run_dry();
  SequenceRequest again = request(1, 30, 3);
  REQUIRE(w.arrive(again).ok());
  w.tokens.clear();
  w.ended.clear();
  w.run_dry();
  CHECK(w.scheduler->counters().shared_tokens == 0);
  CHECK(w.tokens[1] == expected_tokens(again));
}

}  // namespace bp::rt
