// The whole daemon from seeds: whatever hosts do and wherever the daemon dies, every run reaches
// its end. A failing case names its seed; run it alone with BP_SIM_SEED=N.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>

#include "engine/base/log.h"
#include "engine/shell/conductor.h"
#include "tests/sim/world.h"

using namespace bp;
using bp::sim::Behaviour;
using bp::sim::World;

namespace {

// Thousands of lines a second otherwise.
const bool kQuiet = [] {
  if (!std::getenv("BP_SIM_LOG")) spdlog::set_level(spdlog::level::off);
  return true;
}();

std::vector<uint64_t> seeds(uint64_t count) {
  if (const char* one = std::getenv("BP_SIM_SEED")) return {std::strtoull(one, nullptr, 10)};
  std::vector<uint64_t> out;
  for (uint64_t s = 1; s <= count; ++s) out.push_back(s);
  return out;
}

// Submits until it is acknowledged: with one key there is one run, however often the daemon dies
// between.
std::string submit(World& w, const std::string& name) {
  for (int i = 0; i < 50; ++i) {
    v1::ClientRequest r;
    r.mutable_submit()->set_recipe_json(sim::small_recipe(name));
    r.mutable_submit()->set_idempotency_key("key-" + name);
    const uint64_t id = w.ask(r);
    w.run_until([&] { return !w.replies(id).empty(); }, 2'000);
    if (w.replies(id).empty()) {
      w.start_daemon();
      continue;
    }
    INFO(w.replies(id)[0].ShortDebugString());
    REQUIRE(w.replies(id)[0].has_submitted());
    return w.replies(id)[0].submitted().run_id();
  }
  FAIL("submit was never acknowledged");
  return {};
}

template <class Fill>
void insist(World& w, Fill fill) {
  for (int i = 0; i < 50; ++i) {
    v1::ClientRequest r;
    fill(r);
    const uint64_t id = w.ask(r);
    w.run_until([&] { return !w.replies(id).empty(); }, 2'000);
    if (!w.replies(id).empty()) {
      INFO(w.replies(id)[0].ShortDebugString());
      REQUIRE(!w.replies(id)[0].has_error());
      return;
    }
    w.start_daemon();
  }
  FAIL("the request was never answered");
}

// Lets the daemon die now and then until `until`.
void troubled_time(World& w, int64_t until, double crash_chance) {
  while (w.time.now < until) {
    w.run_for(w.time.pick(1, 400));
    if (w.daemon_up() && w.time.chance(crash_chance)) w.crash_daemon();
    if (!w.daemon_up() && w.time.chance(0.5)) w.start_daemon();
  }
  w.start_daemon();
}

void must_hold(World& w) {
  for (const auto& v : w.violations) FAIL_CHECK(v);
  auto wrong = w.journal.check({});
  REQUIRE(wrong.ok());
  for (const auto& v : *wrong) FAIL_CHECK(v);
}

std::string account(World& w, const std::string& id) {
  std::string text;
  std::vector<storage::Entry> events;
  for (auto& e : w.entries()) {
    if (e.run_number == shell::number_of_id(id)) events.push_back(std::move(e));
  }
  const size_t from = events.size() > 25 ? events.size() - 25 : 0;
  for (size_t i = from; i < events.size(); ++i) {
    v1::Event e;
    if (!e.ParseFromString(events[i].body)) continue;
    e.set_wall_ms(0);
    if (e.has_submitted()) e.mutable_submitted()->Clear();
    text += e.ShortDebugString() + "\n";
  }
  return text;
}

void whole_life(uint64_t seed, Behaviour behaviour, double crash_chance) {
  CAPTURE(seed);
  World w(seed, behaviour);
  w.start_daemon();
  std::vector<std::string> ids;
  for (const char* name : {"alpha", "beta"}) ids.push_back(submit(w, name));
  troubled_time(w, w.time.now + 20'000, crash_chance);
  w.behaviour = Behaviour{0, 0, 0, 0, 0, 0, 0, 0};  // from here on the world is kind
  for (const auto& id : ids) {
    const bool serving =
        w.run_until([&] { return w.state_of(id) == v1::RUN_STATE_SERVING; }, 300'000);
    INFO(account(w, id));
    REQUIRE(serving);
  }
  must_hold(w);
  w.behaviour = behaviour;
  for (const auto& id : ids) insist(w, [&](v1::ClientRequest& r) { r.mutable_stop()->set_id(id); });
  troubled_time(w, w.time.now + 10'000, crash_chance);
  w.behaviour = Behaviour{0, 0, 0, 0, 0, 0, 0, 0};
  for (const auto& id : ids) {
    const bool stopped =
        w.run_until([&] { return w.state_of(id) == v1::RUN_STATE_STOPPED; }, 300'000);
    INFO(account(w, id));
    REQUIRE(stopped);
  }
  w.run_for(30'000);
  must_hold(w);
  CHECK(w.living_hosts() == 0);
  CHECK((crash_chance == 0 || w.crashes > 0));
  CHECK(w.attempts_begun >= 12);  // two runs, three stages, up and down
}

}  // namespace

TEST_CASE("runs reach serving and stop while hosts misbehave") {
  for (uint64_t seed : seeds(30)) whole_life(seed, Behaviour{}, 0);
}

TEST_CASE("runs reach serving and stop while hosts misbehave and the daemon dies again and again") {
  for (uint64_t seed : seeds(60)) whole_life(seed, Behaviour{}, 0.25);
}

TEST_CASE("the same seed gives the same history") {
  auto history = [] {
    World w(7, Behaviour{});
    w.start_daemon();
    submit(w, "alpha");
    troubled_time(w, w.time.now + 10'000, 0.25);
    std::string all;
    for (const auto& e : w.entries())
      all += std::to_string(e.run_number) + "/" + std::to_string(e.type) + e.body;
    return all;
  };
  const std::string first = history();
  CHECK(!first.empty());
  CHECK(first == history());
}

TEST_CASE("a final failure is compensated and the run ends as failed") {
  for (uint64_t seed : seeds(10)) {
    CAPTURE(seed);
    Behaviour b;
    b.fail_for_good = 1;
    b.fail = b.rewind = 0;
    World w(seed, b);
    w.start_daemon();
    const std::string id = submit(w, "gamma");
    CHECK(w.run_until([&] { return w.state_of(id) == v1::RUN_STATE_FAILED; }, 300'000));
    w.run_for(30'000);
    must_hold(w);
    CHECK(w.living_hosts() == 0);
    insist(w, [&](v1::ClientRequest& r) { r.mutable_show()->set_id("gamma"); });
    // And again, from the start.
    w.behaviour = Behaviour{0, 0, 0, 0, 0, 0, 0, 0};
    insist(w, [&](v1::ClientRequest& r) { r.mutable_retry()->set_id("gamma"); });
    CHECK(w.run_until([&] { return w.state_of(id) == v1::RUN_STATE_SERVING; }, 300'000));
    must_hold(w);
  }
}

TEST_CASE("cancel reaches the running stage and ends in proof of death") {
  for (uint64_t seed : seeds(20)) {
    CAPTURE(seed);
    World w(seed, Behaviour{});
    w.start_daemon();
    const std::string id = submit(w, "delta");
    w.run_for(w.time.pick(0, 1'500));
    insist(w, [&](v1::ClientRequest& r) { r.mutable_cancel()->set_id("delta"); });
    troubled_time(w, w.time.now + 5'000, 0.2);
    w.behaviour = Behaviour{0, 0, 0, 0, 0, 0, 0, 0};
    const bool cancelled =
        w.run_until([&] { return w.state_of(id) == v1::RUN_STATE_CANCELLED; }, 300'000);
    INFO(account(w, id));
    CHECK(cancelled);
    w.run_for(30'000);
    CHECK(w.living_hosts() == 0);
    must_hold(w);
  }
}

TEST_CASE("an answer is given only for what is durable, and a repeated submit finds its run") {
  for (uint64_t seed : seeds(40)) {
    CAPTURE(seed);
    World w(seed, Behaviour{});
    w.start_daemon();
    v1::ClientRequest r;
    r.mutable_submit()->set_recipe_json(sim::small_recipe("epsilon"));
    r.mutable_submit()->set_idempotency_key("once");
    const uint64_t first = w.ask(r);
    w.run_for(w.time.pick(0, 8));
    w.crash_daemon();
    w.run_for(10);
    const bool acknowledged = !w.replies(first).empty();
    if (acknowledged) CHECK(w.runs_named("epsilon") == 1);
    w.start_daemon();
    const uint64_t second = w.ask(r);
    REQUIRE(w.run_until([&] { return !w.replies(second).empty(); }, 2'000));
    REQUIRE(w.replies(second)[0].has_submitted());
    if (acknowledged) {
      CHECK(w.replies(second)[0].submitted().existed());
      CHECK(w.replies(second)[0].submitted().run_id() == w.replies(first)[0].submitted().run_id());
    }
    w.run_for(10);
    CHECK(w.runs_named("epsilon") == 1);
  }
}

TEST_CASE("no secret of a recipe is in the journal's events or rows") {
  World w(3, Behaviour{});
  w.start_daemon();
  const std::string id = submit(w, "zeta");
  w.run_for(3'000);
  for (const auto& e : w.entries()) CHECK(e.body.find("secret-token") == std::string::npos);
  auto secrets = w.journal.secrets_of(shell::number_of_id(id));
  REQUIRE(secrets.ok());
  REQUIRE(secrets->count("par-0") == 1);
  CHECK(secrets->at("par-0").find("secret-token") == std::string::npos);
}

TEST_CASE("garbage on any channel changes nothing") {
  World w(1, Behaviour{0, 0, 0, 0, 0, 0, 0, 0});
  w.start_daemon();
  const std::string id = submit(w, "eta");
  REQUIRE(w.run_until([&] { return w.state_of(id) == v1::RUN_STATE_SERVING; }, 60'000));
  auto changes = [&] {  // checkpoints go on
    const auto all = w.entries();
    return std::count_if(all.begin(), all.end(),
                         [](const auto& e) { return e.type != v1::Event::kCheckpointed; });
  };
  const auto before = changes();
  for (auto channel : {shell::Channel::kClients, shell::Channel::kStages, shell::Channel::kNodes}) {
    for (int i = 0; i < 200; ++i) {
      std::string junk;
      for (int64_t n = w.time.pick(0, 80); n > 0; --n)
        junk += static_cast<char>(w.time.pick(0, 255));
      w.inject(channel, "stranger", junk);
    }
  }
  w.run_for(2'000);
  CHECK(w.state_of(id) == v1::RUN_STATE_SERVING);
  CHECK(changes() == before);
}
