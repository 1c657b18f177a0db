// Random events from a seed against the invariants of the core. A failure prints the seed; run it
// alone with BP_SEED=N.
#include <algorithm>
#include <cstdlib>
#include <random>

#include "storage/memory_store.h"
#include "tests/unit/core/core_fixture.h"

using namespace bp;
using namespace bp::core;

namespace {

v1::WorkflowDefinition random_workflow(std::mt19937_64& rng) {
  v1::WorkflowDefinition w = line_workflow();
  if (rng() % 3 == 0) {
    w.Clear();
    *w.add_stages() = stage_def("check");
    *w.add_stages() = stage_def("make", {"check"});
    *w.add_stages() = stage_def("side", {"check"});
    *w.add_stages() = stage_def("link", {"make", "side"});
    *w.add_stages() = stage_def("serve", {"link"});
    w.mutable_stages(1)->set_has_destroy(true);
    w.mutable_stages(2)->set_has_destroy(true);
    if (rng() % 2) w.mutable_stages(4)->set_keeps_running(true);
  }
  for (auto& d : *w.mutable_stages()) {
    if (rng() % 2) d.set_queue_timeout_ms(500);
    if (rng() % 2) d.set_run_timeout_ms(2000);
    if (rng() % 2) d.set_heartbeat_timeout_ms(1500);
    if (rng() % 4 == 0) d.set_total_timeout_ms(20'000);
    d.mutable_retry()->set_jitter(0.2);
  }
  return w;
}

// What the world knows of attempts: an attempt lives from its dispatch until its end was reported.
struct World {
  std::map<std::string, v1::Epoch> living;  // stage -> epoch
  std::vector<v1::Event> sent;  // for repetitions and late messages (no requests of people)
};

class Walk {
 public:
  explicit Walk(uint64_t seed) : rng_(seed), wild_(seed % 2 == 0) {
    d_.submit(random_workflow(rng_));
    check();
    store();
  }

  void step() {
    v1::Event e = pick();
    d_.now += int64_t(rng_() % (wild_ ? 400 : 40));
    const uint64_t counter_before = d_.state.epoch_counter;
    if (e.what_case() < v1::Event::kCancelRequested) world_.sent.push_back(e);
    d_.feed(e);
    remember(e);
    REQUIRE(d_.state.epoch_counter >= counter_before);
    check();
    store();
  }

  bool served() const { return d_.state.body.first_serving_wall_ms() != 0; }
  uint32_t rewinds() const { return d_.state.body.rewinds_total(); }
  uint32_t generation() const { return d_.state.body.generation(); }

  void finish() {
    // Everything that was committed, read back and decoded, is the state; so is a replay of the
    // journal.
    auto live = store_.find_run("run-1");
    REQUIRE(live.ok());
    auto back = decode(*live, *store_.stages_of("run-1"), store_.load_live()->timers);
    REQUIRE(back.ok());
    REQUIRE(fingerprint(*back) == fingerprint(d_.state));
    RunState replayed;
    for (const v1::Event& e : d_.journal) {
      REQUIRE(apply(replayed, e).accepted.ok());
    }
    REQUIRE(fingerprint(replayed) == fingerprint(d_.state));
    REQUIRE(store_.check()->empty());
  }

 private:
  std::string some_stage() {
    auto it = d_.state.stages.begin();
    std::advance(it, rng_() % d_.state.stages.size());
    return it->first.first;
  }

  std::string busy_stage() {
    for (const auto& [key, s] : d_.state.stages) {
      const bool busy = has_live_attempt(s) || s.state == v1::STAGE_STATE_QUEUED;
      if (busy && rng_() % 2) return key.first;
    }
    return some_stage();
  }

  std::string earlier_stage(std::string name) {
    for (uint64_t back = rng_() % 3; back > 0; --back) {
      const v1::StageDefinition* d = stage_definition(d_.state, name);
      if (d->after().empty()) break;
      name = d->after(int(rng_() % uint64_t(d->after_size())));
    }
    return name;
  }

  v1::Event end_of(const std::string& name, const v1::Epoch& epoch) {
    v1::Event e = d_.ended_event(name, epoch);
    auto* ended = e.mutable_ended();
    if (rng_() % 3 == 0) ended->set_handle("handle-" + std::to_string(epoch.counter()));
    switch (rng_() % (wild_ ? 12 : 40)) {
      case 0:
        ended->set_cancelled(true);
        break;
      case 1:
      case 5:
        ended->set_rewind_to_stage(rng_() % 20 ? earlier_stage(name) : some_stage());
        break;
      case 2:
        ended->set_needs_human(rng_() % 4 == 0);
        break;
      case 3:
      case 4:
        ended->set_retriable(rng_() % (wild_ ? 5 : 50) != 0);
        break;
      default:
        ended->set_succeeded(true);
        break;
    }
    ended->mutable_error()->set_code("BP_UNAVAILABLE");
    return e;
  }

  v1::Event about_stage(const std::string& name) {
    const StageInstance& s = d_.stage(name);
    v1::Event e;
    if (s.state == v1::STAGE_STATE_QUEUED) {
      e.mutable_dispatched()->set_stage(name);
      *e.mutable_dispatched()->mutable_epoch() = s.body.epoch();
      e.mutable_dispatched()->set_host_id("h" + std::to_string(s.body.epoch().counter()));
    } else if (has_live_attempt(s) && !s.body.has_host() && rng_() % 4) {
      e.mutable_host_started()->set_stage(name);
      *e.mutable_host_started()->mutable_epoch() = s.body.epoch();
      e.mutable_host_started()->mutable_process()->set_pid(1);
    } else if (has_live_attempt(s) && rng_() % (wild_ ? 4 : 20) == 0) {
      e.mutable_lost()->set_stage(name);
      *e.mutable_lost()->mutable_epoch() = s.body.epoch();
    } else if (has_live_attempt(s) && stage_definition(d_.state, name)->keeps_running() &&
               rng_() % 3) {
      e.mutable_ready()->set_stage(name);
      *e.mutable_ready()->mutable_epoch() = s.body.epoch();
    } else if (has_live_attempt(s)) {
      e = end_of(name, s.body.epoch());
    } else {
      v1::Epoch bogus = s.body.epoch();
      bogus.set_counter(rng_() % (d_.state.epoch_counter + 2));
      e = end_of(name, bogus);
    }
    return e;
  }

  // The timer that is due next, seldom another one: RUN timers must not end every attempt.
  v1::Event some_timer() {
    auto it = d_.state.timers.begin();
    if (rng_() % 20 == 0) {
      std::advance(it, rng_() % d_.state.timers.size());
    } else {
      it = std::min_element(
          d_.state.timers.begin(), d_.state.timers.end(),
          [](const auto& a, const auto& b) { return a.second.due_boot_ms < b.second.due_boot_ms; });
    }
    d_.now = std::max(d_.now, it->second.due_boot_ms);
    return Driver::fired(it->second.stage, v1::TimerKind(it->second.kind),
                         it->second.epoch_counter);
  }

  v1::Event pick() {
    v1::Event e;
    const uint64_t dice = rng_() % 1000;
    const uint64_t wild = wild_ ? 10 : 1;
    if (dice < 150 && !d_.state.timers.empty()) return some_timer();
    if (dice < 200)
      return world_.sent.empty() ? about_stage(some_stage())
                                 : world_.sent[rng_() % world_.sent.size()];
    if (dice < 200 + wild)
      e.mutable_cancel_requested();
    else if (dice < 200 + 2 * wild)
      e.mutable_stop_requested();
    else if (dice < 240)
      e.mutable_retry_requested();
    else if (dice < 250) {
      e.mutable_daemon_started()->set_incarnation(1 + rng_() % 2);
      e.mutable_daemon_started()->set_boot_id(rng_() % 2 ? "boot-a" : "boot-b");
    } else if (dice < 250 + wild) {
      const std::string name = some_stage();
      e = Driver::fired(name, v1::TIMER_KIND_HEARTBEAT, d_.epoch(name).counter());
    } else {
      e = about_stage(rng_() % 5 ? busy_stage() : some_stage());
    }
    return e;
  }

  // Follows the world: StartHost makes an attempt live, its end makes it dead.
  void remember(const v1::Event& e) {
    if (d_.last.changed && e.has_ended() && !d_.journal.back().has_ended_was_late()) {
      world_.living.erase(e.ended().stage());
    }
    if (d_.last.changed && e.has_lost()) world_.living.erase(e.lost().stage());
    for (const Action& a : d_.last.actions) {
      if (auto* start = std::get_if<StartHost>(&a)) {
        REQUIRE(world_.living.count(start->ref.stage) == 0);  // at most one live attempt per stage
        world_.living[start->ref.stage] = start->ref.epoch;
      }
      if (auto* dispatch = std::get_if<DispatchAttempt>(&a)) {
        REQUIRE(world_.living.count(dispatch->ref.stage) == 0);
        if (dispatch->mode == v1::ATTEMPT_MODE_APPLY)
          require_nothing_later_lives(dispatch->ref.stage);
        if (dispatch->mode == v1::ATTEMPT_MODE_DESTROY) {
          // Nothing is destroyed under an attempt that still applies.
          for (const auto& [name, epoch] : world_.living) {
            REQUIRE(d_.stage(name).body.mode() == v1::ATTEMPT_MODE_DESTROY);
          }
        }
        if (!e.has_daemon_started()) {
          REQUIRE(dispatch->ref.epoch.counter() > last_dispatched_);
          last_dispatched_ = dispatch->ref.epoch.counter();
        }
      }
    }
  }

  void require_nothing_later_lives(const std::string& stage) {
    for (const auto& d : d_.state.body.workflow().stages()) {
      for (const auto& before : d.after()) {
        if (before != stage) continue;
        REQUIRE(world_.living.count(d.name()) == 0);
        require_nothing_later_lives(d.name());
      }
    }
  }

  void check() {
    const RunState& s = d_.state;
    for (const auto& [key, stage] : s.stages) {
      REQUIRE(has_live_attempt(stage) == (world_.living.count(key.first) != 0));
      if (stage.state == v1::STAGE_STATE_CANCELLING)
        REQUIRE(d_.timer(key.first, v1::TIMER_KIND_CANCEL));
      if (stage.state == v1::STAGE_STATE_BACKOFF)
        REQUIRE(d_.timer(key.first, v1::TIMER_KIND_RETRY));
      REQUIRE(stage.body.epoch().counter() <= s.epoch_counter);
    }
    const bool waits_for_people = is_ended(s.state) || s.state == v1::RUN_STATE_NEEDS_HUMAN;
    bool somebody_acts = !s.timers.empty() || !world_.living.empty();
    for (const auto& [key, stage] : s.stages) {
      somebody_acts = somebody_acts || stage.state == v1::STAGE_STATE_QUEUED;
    }
    REQUIRE(somebody_acts == !waits_for_people);
    REQUIRE(s.live == !is_ended(s.state));
    REQUIRE(who_must_act_next(s).find("defect") == std::string::npos);
  }

  void store() {
    storage::Batch batch = d_.last.batch;
    for (auto& e : batch.events) e.seq = ++seq_;
    store_.commit(batch, [](Status ok) { REQUIRE(ok.ok()); });
  }

  std::mt19937_64 rng_;
  bool wild_;
  Driver d_;
  World world_;
  storage::MemoryStore store_;
  uint64_t seq_ = 0;
  uint64_t last_dispatched_ = 0;
};

}  // namespace

TEST_CASE("core: random histories keep every invariant, round-trip, and replay to the same state") {
  const char* one = std::getenv("BP_SEED");
  const uint64_t first = one ? std::strtoull(one, nullptr, 10) : 1;
  const uint64_t count = one ? 1 : 600;
  uint32_t served = 0, rewound = 0, retried = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    INFO("BP_SEED=" << seed);
    Walk walk(seed);
    for (int i = 0; i < 250; ++i) walk.step();
    walk.finish();
    served += walk.served();
    rewound += walk.rewinds();
    retried += walk.generation() > 1;
  }
  INFO("served " << served << ", rewound " << rewound << ", retried " << retried);
  if (!one) CHECK((served > 50 && rewound > 200 && retried > 100));  // the walks go far enough
}
