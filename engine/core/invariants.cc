// What must hold of every run after every event: checked in tests after each one, by `bp doctor` in
// production.
#include <algorithm>
#include <set>

#include "engine/core/step.h"

namespace bp::core {
namespace {

class Checker {
 public:
  explicit Checker(const RunState& run) : run_(run) {}

  std::vector<std::string> all() {
    numbers();
    for (size_t i = 0; i < run_.stages.size(); ++i) {
      order(i);
      stage(run_.stages[i]);
      order_of_graph(run_.stages[i]);
    }
    for (const Timer& t : run_.timers) timer(t);
    next();
    if (is_ended(run_.n.phase)) ended();
    return std::move(found_);
  }

 private:
  void fail(const std::string& text) { found_.push_back("run " + run_.run_id + ": " + text); }
  void fail(const StageInstance& s, const std::string& text) {
    fail("stage " + run_.stage_name(s.key) + "[" + std::to_string(s.key.map_index) + "] " + text);
  }

  void numbers() {
    const RunState::Numbers& n = run_.n;
    if (n.state != visible_state(n)) fail("its visible state does not follow from its phase");
    if (n.phase == v1::RUN_STATE_PAUSED || n.phase == v1::RUN_STATE_QUARANTINED)
      fail("PAUSED or QUARANTINED as a phase");
    if (n.generation == 0 || n.run_seq == 0) fail("no generation or no event");
    if (n.phase == v1::RUN_STATE_STOPPING && !is_ended(n.outcome))
      fail("it is stopping, but for what is unknown");
    const RunState::Rare& r = run_.rarely();
    if (r.signals.size() > kSignalsMax || r.last_signals.size() > kSignalNamesMax)
      fail("more signals than are kept");
    if (r.request_keys.size() > kRequestKeysMax) fail("more request keys than are kept");
    std::set<uint64_t> counters;
    for (const StageInstance& s : run_.stages) {
      if (has_live_attempt(s) && !counters.insert(s.epoch.counter).second)
        fail(s, "shares its epoch with another living attempt");
    }
  }

  void order(size_t i) {
    if (i > 0 && !(run_.stages[i - 1].key < run_.stages[i].key)) fail("stages are out of order");
    const StageInstance& s = run_.stages[i];
    if (s.key.map_index > 0 && !run_.workflow->mapped(s.key.stage))
      fail(s, "is an instance of a stage that is not mapped");
  }

  void stage(const StageInstance& s) {
    const bool lives = has_live_attempt(s);
    const bool destroys = s.mode == v1::ATTEMPT_MODE_DESTROY;
    if (s.epoch.counter > run_.n.epoch_counter) fail(s, "has an epoch from the future");
    if (s.host && !lives) fail(s, "has a host, but no living attempt");
    if (lives && !s.host && !run_.workflow->shared(s.key.stage))
      fail(s, "lives without a host in OWN");
    if (lives && !s.dispatched_once) fail(s, "lives, but was never dispatched");
    if (s.state == v1::STAGE_STATE_CANCELLING && !run_.timer(s.key, v1::TIMER_KIND_CANCEL))
      fail(s, "is being cancelled without a time limit");
    if ((s.state == v1::STAGE_STATE_CANCELLING) !=
        (s.after_cancel != v1::AFTER_CANCEL_UNSPECIFIED))
      fail(s, "what follows its cancelling does not fit its state");
    if (s.state == v1::STAGE_STATE_BACKOFF && !run_.timer(s.key, v1::TIMER_KIND_RETRY))
      fail(s, "waits for a retry that no timer brings");
    if (s.state == v1::STAGE_STATE_READY &&
        (destroys || !run_.definition(s.key).keeps_running()))
      fail(s, "is ready, but does not keep running");
    if (s.state == v1::STAGE_STATE_DESTROYED && (!destroys || !s.handle().empty()))
      fail(s, "is destroyed and has a handle or was applying");
    if (s.surplus && lives && !destroys) fail(s, "is surplus and lives");
    if (!s.rarely().lender.empty() && (s.handle().empty() || destroys || lives))
      fail(s, "has borrowed a handle that is not there, or works on it");
    if (!s.rarely().borrowers.empty() && s.state != v1::STAGE_STATE_PENDING && destroys)
      fail(s, "is being destroyed while others use it");
    if (s.state == v1::STAGE_STATE_WAITING) waiting(s);
  }

  void waiting(const StageInstance& s) {
    const v1::StageDefinition& d = run_.definition(s.key);
    if (!d.plugin().empty()) fail(s, "has a plugin and waits");
    if (d.wait_signal().empty() && !run_.timer(s.key, v1::TIMER_KIND_SLEEP))
      fail(s, "sleeps, and no timer wakes it");
    for (const Signal& signal : run_.rarely().signals) {
      if (signal.name == d.wait_signal()) fail(s, "waits for a signal that is there");
    }
  }

  // Nothing applies while a later stage lives that needs it; nothing is destroyed before what comes
  // after it, nor under an attempt that still applies.
  void order_of_graph(const StageInstance& s) {
    const bool destroys = s.mode == v1::ATTEMPT_MODE_DESTROY;
    const bool begun = s.state == v1::STAGE_STATE_RUNNING;
    if (!begun) return;
    for (const StageInstance& other : run_.stages) {
      const bool applies = has_live_attempt(other) && other.mode == v1::ATTEMPT_MODE_APPLY;
      if (destroys && applies) fail(s, "is destroyed while another stage applies");
      if (!run_.workflow->is_later(s.key.stage, other.key.stage)) continue;
      if (!destroys && applies && other.state != v1::STAGE_STATE_CANCELLING)
        fail(s, "applies while stage " + run_.stage_name(other.key) + " after it lives");
      if (destroys && !destroy_over(other))
        fail(s, "is destroyed before stage " + run_.stage_name(other.key) + " after it");
    }
  }

  void timer(const Timer& t) {
    const std::string kind = v1::TimerKind_Name(t.kind);
    if (t.frozen != (t.due_boot_ms == 0) && t.frozen) fail(kind + " is frozen and due");
    if (t.frozen && !run_.n.paused) fail(kind + " is frozen, but the run is not paused");
    if (t.key == kRunItself) return;
    const StageInstance* s = run_.find(t.key);
    if (!s) return fail(kind + " names no stage");
    if (t.kind == v1::TIMER_KIND_TOTAL) return;
    if (t.epoch_counter != s->epoch.counter) fail(*s, "has a " + kind + " of another attempt");
    const bool fits =
        (t.kind == v1::TIMER_KIND_RETRY && s->state == v1::STAGE_STATE_BACKOFF) ||
        (t.kind == v1::TIMER_KIND_QUEUE && s->state == v1::STAGE_STATE_QUEUED) ||
        (t.kind == v1::TIMER_KIND_RUN && s->state == v1::STAGE_STATE_RUNNING) ||
        (t.kind == v1::TIMER_KIND_CANCEL && s->state == v1::STAGE_STATE_CANCELLING) ||
        ((t.kind == v1::TIMER_KIND_SLEEP || t.kind == v1::TIMER_KIND_SIGNAL) &&
         s->state == v1::STAGE_STATE_WAITING);
    if (!fits) fail(*s, "has a " + kind + " that does not fit its state");
  }

  void next() {
    const storage::Next n = next_of(run_);
    const bool over = is_ended(run_.n.phase);
    if (over != (n.actor == storage::Actor::kNobody)) fail("nobody acts, or somebody after its end");
    const bool free = n.actor == storage::Actor::kNobody || n.actor == storage::Actor::kPerson ||
                      n.actor == storage::Actor::kApplications ||
                      n.actor == storage::Actor::kSignal;
    if (!free && n.by_boot_ms <= 0) fail("somebody acts without a time limit");
    const std::string text = why(run_);
    if (text.empty() || text.find("defect") != std::string::npos) fail("stuck: " + text);
  }

  void ended() {
    if (!run_.timers.empty()) fail("it has ended and has timers");
    for (const StageInstance& s : run_.stages) {
      if (has_live_attempt(s) || s.state == v1::STAGE_STATE_QUEUED) fail(s, "outlives its run");
      if (!s.rarely().lender.empty()) fail(s, "keeps a borrowed handle after the end");
      const bool gone = run_.n.phase == v1::RUN_STATE_SUCCEEDED ||
                        s.state == v1::STAGE_STATE_DESTROYED || !needs_destroy(run_, s);
      if (!gone) fail(s, "ended without being destroyed");
    }
  }

  const RunState& run_;
  std::vector<std::string> found_;
};

}  // namespace

std::vector<std::string> broken_invariants(const RunState& state) {
  if (state.run_id.empty()) return {"there is no run"};
  return Checker(state).all();
}

}  // namespace bp::core
