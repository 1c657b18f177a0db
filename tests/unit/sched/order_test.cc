// Who goes first: priority, tenants, patience, what is rebuilt; and what the queue takes.
#include "tests/unit/sched/world.h"

namespace bp::rt {
namespace {

SchedulerOptions one_by_one() {
  auto o = small_options();
  o.stages = 1;
  o.max_sequences = 1;
  return o;
}

SequenceRequest of(uint64_t id, const std::string& tenant, int32_t priority = 0) {
  SequenceRequest r = request(id, 6, 4);
  r.tenant = tenant;
  r.priority = priority;
  return r;
}

}  // namespace

TEST_CASE("a lower priority number goes first", "[sched]") {
  World w(one_by_one());
  REQUIRE(w.arrive(of(1, "", 5)).ok());
  REQUIRE(w.arrive(of(2, "", 0)).ok());
  REQUIRE(w.arrive(of(3, "", -5)).ok());
  w.run_dry();
  CHECK(w.order == std::vector<uint64_t>{3, 2, 1});
}

TEST_CASE("a higher priority takes the blocks of a lower one, an equal one waits", "[sched]") {
  auto o = small_options();
  o.stages = 1;
  o.kv_blocks = 6;
  for (int32_t priority : {0, -1}) {
    World w(o);
    REQUIRE(w.arrive(request(1, 12, 8)).ok());
    REQUIRE(w.send());
    REQUIRE(w.finish_one());
    REQUIRE(w.send());
    REQUIRE(w.finish_one());
    SequenceRequest urgent = request(2, 18, 2);
    urgent.priority = priority;
    REQUIRE(w.arrive(urgent).ok());
    w.run_dry();
    CHECK(w.order == (priority < 0 ? std::vector<uint64_t>{2, 1} : std::vector<uint64_t>{1, 2}));
    CHECK((w.scheduler->counters().preemptions > 0) == (priority < 0));
    CHECK(w.tokens[1] == expected_tokens(request(1, 12, 8)));
    CHECK(w.tokens[2] == expected_tokens(urgent));
  }
}

TEST_CASE("tenants share by tokens: one with many requests does not hold up one with few", "[sched]") {
  World w(one_by_one());
  for (uint64_t id = 1; id <= 20; ++id) REQUIRE(w.arrive(of(id, "many")).ok());
  REQUIRE(w.arrive(of(101, "few")).ok());
  REQUIRE(w.arrive(of(102, "few")).ok());
  w.run_dry();
  const auto place = [&](uint64_t id) { return std::find(w.order.begin(), w.order.end(), id) - w.order.begin(); };
  CHECK(place(101) <= 1);
  CHECK(place(102) <= 3);
  REQUIRE(w.order.size() == 22);
}

TEST_CASE("over time tenants get equal shares however many requests they have", "[sched]") {
  auto o = small_options();
  o.stages = 1;
  o.max_sequences = 2;
  World w(o);
  uint64_t next = 1;
  std::map<uint64_t, std::string> tenant_of;
  std::map<std::string, int> waiting{{"a", 0}, {"b", 0}, {"c", 0}}, served;
  const std::map<std::string, int> keeps{{"a", 12}, {"b", 4}, {"c", 1}};
  for (int round = 0; round < 2000; ++round) {
    for (const auto& [name, most] : keeps) {
      while (waiting[name] < most) {
        REQUIRE(w.arrive(of(next, name)).ok());
        tenant_of[next++] = name;
        ++waiting[name];
      }
    }
    const size_t before = w.order.size();
    w.send();
    w.finish_one();
    for (size_t i = before; i < w.order.size(); ++i) {
      --waiting[tenant_of[w.order[i]]];
      ++served[tenant_of[w.order[i]]];
    }
  }
  CHECK(std::abs(served["a"] - served["b"]) <= 3);
  CHECK(served["c"] * 3 >= served["a"] * 2);  // it has only one at a time
}

TEST_CASE("nobody starves under a flood of higher priority", "[sched]") {
  auto o = one_by_one();
  o.patience_ns = 100'000'000;
  World w(o);
  REQUIRE(w.arrive(of(1, "", 100)).ok());
  uint64_t id = 2;
  for (int i = 0; i < 400 && !w.ended.count(1); ++i) {
    while (w.scheduler->waiting() < 5) REQUIRE(w.arrive(of(id++, "", -100)).ok());
    w.send();
    w.finish_one();
  }
  CHECK(w.ended.count(1) == 1);
  CHECK(w.now_ns < 1'000'000'000 + 2 * o.patience_ns);
  CHECK(w.order.size() > 10);  // the others did go first for a while
}

TEST_CASE("after a loss the newest streams come back first", "[sched]") {
  auto o = small_options();
  o.stages = 1;
  World w(o);
  for (uint64_t id = 1; id <= 3; ++id) REQUIRE(w.arrive(request(id, 8, 12)).ok());
  for (int i = 0; i < 5; ++i) {
    w.send();
    w.finish_one();
  }
  w.lose_group();
  REQUIRE(w.send());
  CHECK(w.sent[0].sequences(0).sequence_id() == 3);
  w.run_dry();
  for (uint64_t id = 1; id <= 3; ++id) CHECK(w.tokens[id] == expected_tokens(request(id, 8, 12)));
}

TEST_CASE("the queue is bounded in tokens, and says when to come back", "[sched]") {
  auto o = one_by_one();
  o.max_waiting_tokens = 100;
  World w(o);
  const auto arrive = [&](uint64_t id) {
    SequenceRequest r = request(id, 40, 5);
    r.tenant = std::to_string(id);
    return w.arrive(r);
  };
  for (uint64_t id = 1; id <= 3; ++id) REQUIRE(arrive(id).ok() == (id < 3));
  CHECK(w.scheduler->waiting_tokens() == 90);
  CHECK(w.scheduler->counters().refused == 1);
  for (int i = 0; i < 8; ++i) {
    w.send();
    w.finish_one();
  }
  // 45 tokens in 8 steps of 1 ms, and 35 too many: 6 ms.
  REQUIRE(arrive(10).ok());
  REQUIRE(arrive(11).error().code == ErrorCode::kOverloaded);
  CHECK(w.scheduler->tokens_per_s() == Approx(45 / 0.008).epsilon(0.3));
  CHECK(w.scheduler->retry_after_ms() ==
        static_cast<int64_t>(35 / w.scheduler->tokens_per_s() * 1000 + 0.5));
}

TEST_CASE("one tenant cannot fill the queue", "[sched]") {
  auto o = one_by_one();
  o.max_waiting_tokens = 200;
  World w(o);
  uint64_t id = 1;
  while (w.arrive(of(id, "greedy")).ok()) ++id;
  CHECK(id > 10);
  CHECK(w.arrive(of(id + 1, "other")).ok());
}

}  // namespace bp::rt
