// Who must act next: for the journal as a column, for people as one sentence.
#include <algorithm>

#include "engine/core/step.h"

namespace bp::core {
namespace {

using storage::Actor;

struct Waiting {
  Actor actor = Actor::kNobody;
  int64_t by_boot_ms = 0;
  const StageInstance* stage = nullptr;
  bool defect = false;
};

// The more urgent, the smaller; 0: it waits for others.
int urgency(v1::StageState state) {
  switch (state) {
    case v1::STAGE_STATE_CANCELLING:
      return 1;
    case v1::STAGE_STATE_RUNNING:
      return 2;
    case v1::STAGE_STATE_QUEUED:
      return 3;
    case v1::STAGE_STATE_BACKOFF:
      return 4;
    case v1::STAGE_STATE_WAITING:
      return 5;
    default:
      return 0;
  }
}

Actor actor_of(const RunState& run, const StageInstance& s) {
  switch (s.state) {
    case v1::STAGE_STATE_QUEUED:
      return Actor::kDaemon;
    case v1::STAGE_STATE_BACKOFF:
      return Actor::kTimer;
    case v1::STAGE_STATE_WAITING:
      return run.definition(s.key).wait_signal().empty() ? Actor::kTimer : Actor::kSignal;
    default:
      return Actor::kStageHost;
  }
}

// The first timer of that stage; without one, when it is overdue.
int64_t limit_of(const RunState& run, StageKey key, Actor actor) {
  int64_t first = 0;
  for (const Timer& t : run.timers) {
    if (t.key != key || t.frozen) continue;
    if (first == 0 || t.due_boot_ms < first) first = t.due_boot_ms;
  }
  if (first == 0 && actor == Actor::kSignal) return 0;
  return std::max<int64_t>(1, first != 0 ? first : run.n.updated_boot_ms + kOverdueMs);
}

const StageInstance* lent(const RunState& run) {
  for (const StageInstance& s : run.stages) {
    if (!s.rarely().borrowers.empty() && s.state == v1::STAGE_STATE_PENDING &&
        s.mode == v1::ATTEMPT_MODE_DESTROY)
      return &s;
  }
  return nullptr;
}

Waiting look(const RunState& run) {
  Waiting w;
  const RunState::Numbers& n = run.n;
  if (run.run_id.empty() || is_ended(n.phase)) return w;
  w.actor = Actor::kPerson;
  if (n.quarantined || n.paused || n.phase == v1::RUN_STATE_NEEDS_HUMAN) return w;
  if (n.phase == v1::RUN_STATE_SERVING) {
    w.actor = Actor::kApplications;
    return w;
  }
  int best = 0;
  for (const StageInstance& s : run.stages) {
    const int u = urgency(s.state);
    if (u == 0 || (best != 0 && u >= best)) continue;
    best = u;
    w.stage = &s;
  }
  if (w.stage) {
    w.actor = actor_of(run, *w.stage);
    w.by_boot_ms = limit_of(run, w.stage->key, w.actor);
    return w;
  }
  if (run.timer(kRunItself, v1::TIMER_KIND_SLEEP)) {
    w.actor = Actor::kTimer;
    w.by_boot_ms = limit_of(run, kRunItself, w.actor);
    return w;
  }
  w.stage = lent(run);
  w.defect = !w.stage;
  return w;
}

std::string attempt_name(const RunState& run, const StageInstance& s) {
  const bool destroy = s.mode == v1::ATTEMPT_MODE_DESTROY;
  std::string name = run.stage_name(s.key);
  if (s.key.map_index > 0 || s.expanded) name += "[" + std::to_string(s.key.map_index) + "]";
  return (destroy ? "the teardown of " : "") + name + " (attempt " + std::to_string(s.attempt) +
         ")";
}

std::string host_name(const RunState& run, const StageInstance& s) {
  if (!s.host && run.workflow->shared(s.key.stage))
    return "the shared stage host of " + plugin_of(run, s.key);
  return s.process() ? "stage host " + std::to_string(s.process()->pid())
                     : "a stage host that is starting";
}

std::string about(const RunState& run, const StageInstance& s) {
  switch (s.state) {
    case v1::STAGE_STATE_CANCELLING:
      return host_name(run, s) + " must end " + attempt_name(run, s) +
             "; it is killed when its grace is over";
    case v1::STAGE_STATE_RUNNING:
      return host_name(run, s) + " must finish " + attempt_name(run, s);
    case v1::STAGE_STATE_QUEUED:
      return "the daemon must start a stage host for " + attempt_name(run, s);
    case v1::STAGE_STATE_BACKOFF:
      return "the timer must fire that tries " + run.stage_name(s.key) +
             " again; last time: " + (s.failure ? s.failure.get()->message() : std::string());
    case v1::STAGE_STATE_WAITING: {
      const std::string& signal = run.definition(s.key).wait_signal();
      if (signal.empty()) return "the timer must fire that ends the sleep of " + run.stage_name(s.key);
      return "somebody must send the signal " + signal + ", for which " + run.stage_name(s.key) +
             " waits";
    }
    default:
      return "a person must end the runs that still use what stage " + run.stage_name(s.key) +
             " made; the first is " + s.rarely().borrowers.front();
  }
}

std::string survivors_text(const RunState& run) {
  std::string text;
  for (const std::string& s : run.rarely().survivors) text += (text.empty() ? "" : "; ") + s;
  return text;
}

std::string with_reason(const std::string& reason) { return reason.empty() ? "" : ": " + reason; }

}  // namespace

storage::Next next_of(const RunState& state) {
  const Waiting w = look(state);
  return {w.actor, w.by_boot_ms};
}

std::string why(const RunState& state) {
  if (state.run_id.empty()) return "nobody: there is no such run";
  const RunState::Numbers& n = state.n;
  const RunState::Rare& r = state.rarely();
  if (is_ended(n.phase)) {
    if (r.ended_by.empty()) return "nobody: the run has ended";
    return "nobody: ended by " + r.ended_by + with_reason(r.end_reason);
  }
  if (n.quarantined) {
    return "a person must release it or cancel it: it is in quarantine" +
           with_reason(r.quarantine_reason);
  }
  if (n.phase == v1::RUN_STATE_NEEDS_HUMAN) {
    return "a person must confirm that these are gone, then `bp stop " + state.name +
           "`: " + survivors_text(state);
  }
  if (n.paused)
    return "a person must resume it: paused by " + r.paused_by + with_reason(r.pause_reason);
  if (n.phase == v1::RUN_STATE_SERVING) return "applications: the endpoint serves";
  const Waiting w = look(state);
  if (w.defect) {
    return "nobody: this is a defect of the core, please report it with `bp show " + state.name +
           " --json`";
  }
  if (!w.stage) return "the timer must fire that starts it";
  return about(state, *w.stage);
}

storage::EndedRow ended_row(const RunState& state) {
  storage::EndedRow row;
  row.run_number = state.run_number;
  row.run_id = state.run_id;
  row.name = state.name;
  row.workflow = state.workflow ? state.workflow->name() : std::string();
  row.state = state.n.state;
  row.created_wall_ms = state.n.created_wall_ms;
  row.ended_wall_ms = state.n.updated_wall_ms;
  if (state.error()) row.error_code = state.error()->code();
  if (state.submitted) row.idempotency_key = state.submitted->idempotency_key;
  row.labels.insert(state.labels.begin(), state.labels.end());
  row.last_commit = state.last_commit;
  return row;
}

}  // namespace bp::core
