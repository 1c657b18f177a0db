// Random workflows and random events from a seed against the invariants of the core. A failure
// prints the seed; run it alone with BP_SEED=N.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>

#include "tests/unit/core/core_fixture.h"
#include "tests/unit/core/random_workflow.h"

using namespace bp;
using namespace bp::core;

namespace {

struct Totals {
  uint32_t served = 0, rewound = 0, retried = 0, paused = 0, mapped = 0, signalled = 0, torn = 0,
           migrated = 0, quarantined = 0, shared_lost = 0, ended = 0, lent = 0, taken = 0,
           returned = 0;
};

class Walk {
 public:
  /// With a fork it begins in the middle of another walk's run, under the same definition.
  Walk(uint64_t seed, Totals& totals, const Walk* of = nullptr)
      : rng_(seed), wild_(seed % 2 == 0), totals_(totals) {
    definition_ = of ? of->d_.state.workflow->definition() : random_workflow(rng_);
    REQUIRE(check_workflow(definition_).ok());
    v1::Event e = Feeder::submitted(definition_);
    if (of) fork(*of, e.mutable_submitted());
    (*e.mutable_submitted()->mutable_inputs())["list"] = list_of(rng_() % 5);
    if (rng_() % 6 == 0) e.mutable_submitted()->set_start_after_ms(300);
    if (rng_() % 10 == 0) e.mutable_submitted()->add_limit_keys("runs");
    d_.may_dispatch = rng_() % 3 != 0;
    d_.feed(e);
    REQUIRE(d_.last.accepted.ok());
    remember(e);
  }

  void step() {
    v1::Event e = pick();
    d_.now += int64_t(rng_() % (wild_ ? 400 : 40));
    const uint64_t counter = d_.state.n.epoch_counter;
    if (e.what_case() < v1::Event::kCancelRequested) sent_.push_back(e);
    d_.feed(e);
    remember(e);
    REQUIRE(d_.state.n.epoch_counter >= counter);
    check_world();
  }

  // What was stored, read back, is the state; so is a replay of the journal.
  void finish() {
    const std::string bytes = encode_run(d_.state);
    auto back = decode_run(bytes, d_.workflows);
    REQUIRE(back.ok());
    REQUIRE(encode_run(*back) == bytes);
    Feeder::sound(*back);
    RunState replayed;
    RunState restored;  // from snapshots, as a restart in the middle would have it
    size_t i = 0;
    for (const v1::Event& e : d_.journal) {
      v1::Event read;
      REQUIRE(read.ParseFromString(encode_event(e)));
      REQUIRE(apply(replayed, read, d_.workflows).accepted.ok());
      REQUIRE(apply(restored, read, d_.workflows).changed);
      if (++i % 17 != 0) continue;
      auto again = decode_run(encode_run(restored), d_.workflows);
      REQUIRE(again.ok());
      restored = std::move(again).value();
    }
    REQUIRE(encode_run(replayed) == bytes);
    REQUIRE(encode_run(restored) == bytes);
    totals_.served += d_.state.n.first_serving_wall_ms != 0;
    totals_.rewound += d_.state.n.rewinds_total;
    totals_.retried += d_.state.n.generation > 1;
    totals_.ended += is_ended(d_.state.n.state);
    totals_.mapped += d_.state.stages.size() > static_cast<size_t>(definition_.stages_size());
  }

 private:
  const StageInstance& some() { return d_.state.stages[rng_() % d_.state.stages.size()]; }

  const StageInstance& busy() {
    for (const StageInstance& s : d_.state.stages) {
      const bool is_busy = has_live_attempt(s) || s.state == v1::STAGE_STATE_QUEUED;
      if (is_busy && rng_() % 2) return s;
    }
    return some();
  }

  void fork(const Walk& of, v1::RunSubmitted* submitted) {
    const RunState& from = of.d_.state;
    const int stage = static_cast<int>(rng_() % from.workflow->size());
    auto origin = fork_origin(from, definition_.stages(stage).name(), *from.workflow);
    REQUIRE(origin.ok());
    totals_.taken += static_cast<uint32_t>(origin->taken_size());
    *submitted->mutable_fork() = std::move(origin).value();
    submitted->set_run_id("run-2");
  }

  v1::Event lend() {
    v1::Event e;
    const StageInstance& s = some();
    const std::string borrower = "run-9" + std::to_string(rng_() % 2);
    if (rng_() % 3) {
      e.mutable_handle_returned()->set_stage(d_.state.stage_name(s.key));
      e.mutable_handle_returned()->set_map_index(s.key.map_index);
      e.mutable_handle_returned()->set_borrower(borrower);
    } else {
      e.mutable_handle_lent()->set_stage(d_.state.stage_name(s.key));
      e.mutable_handle_lent()->set_map_index(s.key.map_index);
      e.mutable_handle_lent()->set_borrower(borrower);
    }
    return e;
  }

  std::string earlier(const StageInstance& s) {
    const Workflow& w = *d_.state.workflow;
    StageIndex at = s.key.stage;
    for (uint64_t back = rng_() % 3; back > 0 && !w.before(at).empty(); --back)
      at = w.before(at)[rng_() % w.before(at).size()];
    return w.stage(at).name();
  }

  template <class E>
  void name(E* e, const StageInstance& s, uint64_t counter) {
    e->set_stage(d_.state.stage_name(s.key));
    e->set_map_index(s.key.map_index);
    e->mutable_epoch()->set_incarnation(s.epoch.incarnation);
    e->mutable_epoch()->set_counter(counter);
  }

  v1::Event end_of(const StageInstance& s, uint64_t counter) {
    v1::Event e;
    auto* ended = e.mutable_ended();
    name(ended, s, counter);
    if (rng_() % 3 == 0) ended->set_handle("handle-" + std::to_string(counter));
    if (rng_() % 8) (*ended->mutable_outputs())["out"] = "out-" + std::to_string(counter);
    switch (rng_() % (wild_ ? 12 : 60)) {
      case 0:
        ended->set_cancelled(true);
        break;
      case 1:
      case 5:
        ended->set_rewind_to_stage(rng_() % 20 ? earlier(s) : d_.state.stage_name(some().key));
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

  v1::Event about(const StageInstance& s) {
    v1::Event e;
    const uint64_t counter = s.epoch.counter;
    const bool lives = has_live_attempt(s);
    if (s.state == v1::STAGE_STATE_QUEUED) {
      name(e.mutable_dispatched(), s, counter);
      e.mutable_dispatched()->set_host_id("h" + std::to_string(counter));
    } else if (lives && s.host && !s.process() && rng_() % 4) {
      name(e.mutable_host_started(), s, counter);
      e.mutable_host_started()->mutable_process()->set_pid(1);
    } else if (lives && rng_() % (wild_ ? 4 : 20) == 0) {
      name(e.mutable_lost(), s, counter);
      e.mutable_lost()->set_shared_host_died(!s.host);
      totals_.shared_lost += !s.host;
    } else if (lives && d_.state.definition(s.key).keeps_running() && rng_() % 3) {
      name(e.mutable_ready(), s, counter);
    } else if (lives) {
      e = end_of(s, counter);
    } else {
      e = end_of(s, rng_() % (d_.state.n.epoch_counter + 2));
    }
    return e;
  }

  // The timer that is due next, seldom another one: RUN timers must not end every attempt.
  v1::Event some_timer() {
    std::vector<Timer> armed;
    for (const Timer& t : d_.state.timers) {
      if (!t.frozen) armed.push_back(t);
    }
    if (armed.empty()) return about(busy());
    auto it = armed.begin();
    if (rng_() % 20 == 0) {
      std::advance(it, rng_() % armed.size());
    } else {
      it = std::min_element(armed.begin(), armed.end(), [](const Timer& a, const Timer& b) {
        return a.due_boot_ms < b.due_boot_ms;
      });
    }
    d_.now = std::max(d_.now, it->due_boot_ms);
    return timer_event(d_.state, *it);
  }

  v1::Event request() {
    v1::Event e;
    switch (rng_() % 9) {
      case 0:
        e.mutable_pause_requested()->set_by("p");
        break;
      case 1:
      case 2:
        e.mutable_resume_requested()->set_by("p");
        break;
      case 3:
      case 4:
        e.mutable_signal_received()->set_name(rng_() % 2 ? "go" : "on");
        e.mutable_signal_received()->set_payload("p" + std::to_string(d_.now));
        totals_.signalled += 1;
        break;
      case 5:
        e.mutable_run_changed()->set_priority(static_cast<int32_t>(rng_() % 3));
        (*e.mutable_run_changed()->mutable_put_labels())["l"] = std::to_string(rng_() % 3);
        break;
      case 6:
        return migration();
      case 7:
        if (rng_() % 4 == 0) {
          e.mutable_run_quarantined()->set_reason("a fault");
        } else {
          e.mutable_run_released()->set_by("p");
          e.mutable_run_released()->set_cancel(rng_() % 20 == 0);
        }
        break;
      default:
        return lend();
    }
    if (rng_() % 3 == 0) e.set_request_key("k" + std::to_string(rng_() % 40));
    return e;
  }

  // Onto the same graph with other times, or one stage more.
  v1::Event migration() {
    v1::WorkflowDefinition w = d_.state.workflow->definition();
    w.set_version(w.version() + 1);
    if (rng_() % 2 && w.stages_size() < 9) {
      v1::StageDefinition more = stage_def("m" + std::to_string(w.version()));
      if (rng_() % 2) more.add_after(w.stages(0).name());
      *w.add_stages() = more;
    }
    auto made = d_.workflows.add(w);
    v1::Event e;
    e.mutable_run_migrated()->set_workflow_hash(made.ok() ? (*made)->hash() : "none");
    return e;
  }

  v1::Event pick() {
    v1::Event e;
    const uint64_t dice = rng_() % 1000;
    const uint64_t wild = wild_ ? 10 : 1;
    const bool held = d_.state.n.paused || d_.state.n.quarantined;
    if (dice < 150 && !d_.state.timers.empty()) return some_timer();
    if (dice < 200) return sent_.empty() ? about(some()) : sent_[rng_() % sent_.size()];
    if (dice < 200 + wild) {
      e.mutable_cancel_requested();
    } else if (dice < 200 + 2 * wild) {
      e.mutable_stop_requested();
    } else if (dice < 240) {
      e.mutable_retry_requested()->set_from_failed(rng_() % 2);
    } else if (dice < 250) {
      e.mutable_daemon_started()->set_incarnation(1 + rng_() % 2);
      e.mutable_daemon_started()->set_boot_id(rng_() % 2 ? "boot-a" : "boot-b");
    } else if (dice < 250 + wild) {
      name(e.mutable_timer_fired(), some(), some().epoch.counter);
      e.mutable_timer_fired()->set_kind(v1::TIMER_KIND_HEARTBEAT);
    } else if (dice < (held ? 500u : 310u)) {
      return request();
    } else {
      return about(rng_() % 5 ? busy() : some());
    }
    return e;
  }

  using Name = std::pair<std::string, uint32_t>;
  static Name name_of(const Attempt& a) { return {a.stage, a.map_index}; }

  void begins(const Attempt& ref) {
    REQUIRE(living_.count(name_of(ref)) == 0);  // at most one living attempt per instance
    living_[name_of(ref)] = ref.epoch.counter();
  }

  // Follows the world: StartHost and SendShared make an attempt live, its end makes it dead.
  void remember(const v1::Event& e) {
    const bool late = d_.last.changed && d_.journal.back().has_ended_was_late();
    if (d_.last.changed && e.has_ended() && !late)
      living_.erase({e.ended().stage(), e.ended().map_index()});
    if (d_.last.changed && e.has_lost()) living_.erase({e.lost().stage(), e.lost().map_index()});
    totals_.paused += d_.last.changed && e.has_pause_requested();
    totals_.migrated += d_.last.changed && e.has_run_migrated();
    totals_.quarantined += d_.last.changed && e.has_run_quarantined();
    totals_.lent += d_.last.changed && e.has_handle_lent();
    for (const Action& a : d_.last.actions) {
      if (auto* start = std::get_if<StartHost>(&a)) begins(start->ref);
      totals_.returned += std::holds_alternative<ReturnHandle>(a);
      if (auto* send = std::get_if<SendShared>(&a)) {
        begins(send->ref);
        totals_.torn += send->mode == v1::ATTEMPT_MODE_DESTROY;
      }
      if (auto* dispatch = std::get_if<DispatchAttempt>(&a)) {
        REQUIRE(living_.count(name_of(dispatch->ref)) == 0);
        REQUIRE(!d_.state.n.paused);
      }
    }
  }

  void check_world() {
    size_t live = 0;
    for (const StageInstance& s : d_.state.stages) {
      auto it = living_.find({d_.state.stage_name(s.key), s.key.map_index});
      REQUIRE(has_live_attempt(s) == (it != living_.end()));
      if (it == living_.end()) continue;
      REQUIRE(it->second == s.epoch.counter);
      ++live;
    }
    REQUIRE(live == living_.size());
  }

  Rng rng_;
  bool wild_;
  Totals& totals_;
  v1::WorkflowDefinition definition_;
  Driver d_;
  std::map<Name, uint64_t> living_;  // -> epoch counter
  std::vector<v1::Event> sent_;      // for repetitions and late messages
};

}  // namespace

TEST_CASE("core: random histories keep every invariant, round-trip, and replay to the same state") {
  const char* one = std::getenv("BP_SEED");
  const char* more = std::getenv("BP_SEEDS");
  const uint64_t first = one ? std::strtoull(one, nullptr, 10) : 1;
  const uint64_t count = one ? 1 : more ? std::strtoull(more, nullptr, 10) : 500;
  Totals t;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    INFO("BP_SEED=" << seed);
    Walk walk(seed, t);
    for (int i = 0; i < 250; ++i) walk.step();
    walk.finish();
    Walk forked(seed + 1'000'000, t, &walk);
    for (int i = 0; i < 100; ++i) forked.step();
    forked.finish();
  }
  INFO("served " << t.served << ", rewound " << t.rewound << ", retried " << t.retried
                 << ", paused " << t.paused << ", mapped " << t.mapped << ", signalled "
                 << t.signalled << ", torn down shared " << t.torn << ", migrated " << t.migrated
                 << ", quarantined " << t.quarantined << ", shared lost " << t.shared_lost
                 << ", ended " << t.ended << ", lent " << t.lent << ", taken " << t.taken
                 << ", returned " << t.returned);
  if (one) return;  // the walks go far enough:
  CHECK((t.served > 20 && t.rewound > 100 && t.retried > 50 && t.paused > 100 && t.mapped > 50));
  CHECK((t.signalled > 200 && t.torn > 20 && t.migrated > 100 && t.quarantined > 50));
  CHECK((t.shared_lost > 100 && t.ended > 50 && t.lent > 15 && t.taken > 100));
  CHECK(t.returned > 20);
}
