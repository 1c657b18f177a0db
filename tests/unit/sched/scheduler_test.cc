#include "tests/unit/sched/world.h"

namespace bp::rt {

TEST_CASE("one sequence is prefilled in chunks that are under way together, then decoded", "[sched]") {
  auto o = small_options();
  o.step_overhead_tokens = 100;  // chunks as large as a step takes
  World w(o);
  REQUIRE(w.arrive(request(7, 25, 3)).ok());
  REQUIRE(w.send());
  REQUIRE(w.send());
  CHECK(!w.send());  // two are outstanding
  CHECK(w.sent[0].sequences(0).tokens_size() == 10);
  CHECK(w.sent[1].sequences(0).position() == 10);
  CHECK(!w.sent[1].sequences(0).sample());
  w.run_dry();
  CHECK(w.tokens[7] == expected_tokens(request(7, 25, 3)));
  CHECK(w.ended[7] == "length");
  CHECK(w.scheduler->free_blocks() == 16);
}

TEST_CASE("stop tokens end a sequence with their own token last", "[sched]") {
  World w(small_options());
  SequenceRequest r = request(1, 5, 30);
  r.stop_tokens = {expected_tokens(r)[4]};
  REQUIRE(w.arrive(r).ok());
  w.run_dry();
  CHECK(w.tokens[1] == expected_tokens(r));
  CHECK(w.ended[1] == "stop");
}

TEST_CASE("what cannot be served is refused at the door", "[sched]") {
  auto o = small_options();
  o.max_waiting = 1;
  World w(o);
  CHECK(w.arrive(request(1, 50, 11)).error().code == ErrorCode::kTooLarge);
  CHECK(w.arrive(request(1, 0, 1)).error().code == ErrorCode::kInvalidArgument);
  CHECK(w.arrive(request(1, 1, 0)).error().code == ErrorCode::kInvalidArgument);
  CHECK(w.arrive(request(1, 5, UINT32_MAX)).error().code == ErrorCode::kTooLarge);
  REQUIRE(w.arrive(request(1, 50, 10)).ok());
  CHECK(w.arrive(request(2, 5, 5)).error().code == ErrorCode::kOverloaded);
  REQUIRE(w.send());
  CHECK(w.arrive(request(1, 5, 5)).error().code == ErrorCode::kInvalidArgument);
  CHECK(w.scheduler->arrive({request(3, 5, 5), request(3, 5, 5)}, 0).error().code ==
        ErrorCode::kInvalidArgument);
  CHECK(w.scheduler->waiting() == 0);
}

TEST_CASE("choices of one request are taken together or not at all", "[sched]") {
  World w(small_options());
  CHECK(!w.scheduler->arrive({request(1, 5, 5), request(2, 70, 5)}, 0).ok());
  CHECK(w.scheduler->waiting() == 0);
  CHECK(!w.send());
}

TEST_CASE("results out of order or without a token are refused", "[sched]") {
  World w(small_options());
  v1::StepResult r;
  r.set_number(1);
  CHECK(w.scheduler->step_done(r, 0).error().code == ErrorCode::kProtocol);
  REQUIRE(w.arrive(request(1, 3, 5)).ok());
  REQUIRE(w.send());
  CHECK(w.scheduler->step_done(r, 0).error().code == ErrorCode::kProtocol);
  r.set_number(2);
  CHECK(w.scheduler->step_done(r, 0).error().code == ErrorCode::kProtocol);
}

TEST_CASE("blocks of a cancelled sequence stay reserved while a step uses them", "[sched]") {
  World w(small_options());
  REQUIRE(w.arrive(request(1, 8, 5)).ok());
  REQUIRE(w.send());
  const uint32_t free = w.scheduler->free_blocks();
  w.scheduler->cancel(1);
  w.cancelled.insert(1);
  CHECK(free < 16);
  CHECK(w.scheduler->free_blocks() == free);
  REQUIRE(w.finish_one());
  CHECK(w.scheduler->free_blocks() == 16);
  CHECK(w.scheduler->running() == 0);
  w.scheduler->cancel(99);
}

TEST_CASE("a deadline ends a sequence that waits and one that runs", "[sched]") {
  auto o = small_options();
  o.max_sequences = 1;
  o.stages = 1;
  World w(o);
  for (uint64_t id : {1, 2, 3}) {
    SequenceRequest r = request(id, 4, 40);
    if (id < 3) r.deadline_ns = w.now_ns + static_cast<int64_t>(id) * 10'000'000;
    REQUIRE(w.arrive(r).ok());
  }
  CHECK(w.scheduler->expire(w.now_ns).empty());
  for (int i = 0; i < 12; ++i) {
    w.send();
    w.finish_one();
  }
  REQUIRE(w.send());  // sequence 1 is in a step
  CHECK(w.scheduler->expire(w.now_ns) == std::vector<uint64_t>{1});
  CHECK(w.scheduler->expire(w.now_ns).empty());
  w.cancelled.insert(1);
  w.now_ns += 10'000'000;
  CHECK(w.scheduler->expire(w.now_ns) == std::vector<uint64_t>{2});
  w.run_dry();
  CHECK(w.tokens[1].size() == 12);
  CHECK(w.tokens.count(2) == 0);
  CHECK(w.tokens[3].size() == 40);
  CHECK(w.scheduler->counters().expired == 2);
  CHECK(w.scheduler->free_blocks() == 16);
}

TEST_CASE("one stage: all sequences decode in one step", "[sched]") {
  auto o = small_options();
  o.stages = 1;
  o.max_sequences = 8;
  o.kv_blocks = 64;
  World w(o);
  for (uint64_t id = 1; id <= 6; ++id) REQUIRE(w.arrive(request(id, 1, 5)).ok());
  REQUIRE(w.send());
  REQUIRE(w.finish_one());
  REQUIRE(w.send());
  CHECK(w.sent[0].sequences_size() == 6);
  CHECK(!w.send());
}

TEST_CASE("a pipeline has as many micro-batches as stages, all alike", "[sched]") {
  for (uint32_t stages : {2u, 3u, 4u}) {
    auto o = small_options();
    o.stages = stages;
    o.max_sequences = 64;
    o.kv_blocks = 200;
    World w(o);
    for (uint64_t id = 1; id <= 12; ++id) REQUIRE(w.arrive(request(id, 1, 20)).ok());
    for (uint32_t i = 0; i < 8 * stages; ++i) {
      while (w.send()) {
      }
      REQUIRE(w.sent.size() == stages);
      w.finish_one();
    }
    for (const auto& step : w.sent) CHECK(static_cast<uint32_t>(step.sequences_size()) == 12 / stages);
  }
}

TEST_CASE("a lone prompt is cut so that all stages have something to do, later chunks shorter", "[sched]") {
  SchedulerOptions o;
  o.kv_blocks = 300;
  o.max_context_tokens = 4096;
  o.stages = 2;
  World w(o);
  REQUIRE(w.arrive(request(1, 512, 2)).ok());
  w.run_dry();
  std::vector<int> even;
  for (const auto& s : w.steps) even.push_back(s.sequences(0).tokens_size());
  CHECK(even[0] == 80);  // sqrt(512 * 8) = 64, and what is below the next multiple of 16
  CHECK(even[1] <= 80);
  o.attention_parity_tokens = 256;
  World v(o);
  REQUIRE(v.arrive(request(1, 512, 2)).ok());
  v.run_dry();
  CHECK(v.steps[0].sequences(0).tokens_size() == 80);
  CHECK(v.steps[3].sequences(0).tokens_size() < v.steps[0].sequences(0).tokens_size());
  CHECK(v.tokens[1] == w.tokens[1]);
}

TEST_CASE("while somebody decodes a step takes fewer prompt tokens", "[sched]") {
  SchedulerOptions o;
  o.kv_blocks = 300;
  o.max_context_tokens = 4096;
  World w(o);
  REQUIRE(w.arrive(request(1, 600, 20)).ok());
  REQUIRE(w.send());
  CHECK(w.steps[0].sequences(0).tokens_size() == 512);
  REQUIRE(w.finish_one());
  REQUIRE(w.send());
  REQUIRE(w.finish_one());
  REQUIRE(w.arrive(request(2, 600, 20)).ok());
  REQUIRE(w.send());
  CHECK(w.steps[2].sequences(0).tokens_size() == 1);
  CHECK(w.steps[2].sequences(1).tokens_size() == 255);
}

}  // namespace bp::rt
