// Holding a run and letting it go on: pause and resume, quarantine and release, restarts of the
// daemon; changes of priority and labels.
//
// Paused: nothing is dispatched, running attempts finish, and the timers that limit work (RUN,
// QUEUE, TOTAL, SIGNAL, RUN_TOTAL) are frozen. RETRY, SLEEP and CANCEL go on: what follows waits.
// Quarantined: nothing is applied but a restart and the release; timers stay in the state and are
// armed anew at the release.
#include <algorithm>

#include "engine/base/limits.h"
#include "engine/core/step.h"

namespace bp::core {
namespace {

constexpr size_t kLabelsMax = 64;

bool freezes(v1::TimerKind kind) {
  return kind == v1::TIMER_KIND_RUN || kind == v1::TIMER_KIND_QUEUE ||
         kind == v1::TIMER_KIND_TOTAL || kind == v1::TIMER_KIND_SIGNAL ||
         kind == v1::TIMER_KIND_RUN_TOTAL;
}

void freeze(Step& step) {
  for (Timer& t : step.timers()) {
    if (t.frozen || !freezes(t.kind)) continue;
    t.frozen = true;
    t.left_ms = std::max<int64_t>(0, t.due_boot_ms - step.event.boot_ms());
    t.due_boot_ms = 0;
    step.out.drop_timers.push_back({t.key, t.kind});
  }
}

void put_all_timers(Step& step) {
  for (const Timer& t : step.run.timers) {
    if (!t.frozen) step.out.put_timers.push_back(t);
  }
}

// Time did not pass for the timers between the run's last event and now: it was another boot.
void rearm(Step& step, uint64_t boot) {
  RunState::Numbers& n = step.run.n;
  const int64_t now = step.event.boot_ms();
  const bool old_way = step.event.core_version() < 2;
  const bool same_boot = n.boot == boot;
  if (!old_way && same_boot) return;
  for (Timer& t : step.timers()) {
    if (t.frozen) continue;
    const int64_t left = same_boot ? t.due_boot_ms - now
                         : old_way ? t.left_ms
                                   : t.due_boot_ms - n.updated_boot_ms;
    t.left_ms = std::max<int64_t>(0, left);
    t.due_boot_ms = now + t.left_ms;
  }
  n.boot = boot;
}

ReattachAttempt reattach_action(const RunState& run, const StageInstance& s) {
  return {current_attempt(run, s.key), s.mode, plugin_of(run, s.key),
          plugin_version_of(run, s.key)};
}

// Every action that follows from the state.
void reissue(Step& step) {
  const RunState& run = step.run;
  for (const StageInstance& s : run.stages) {
    if (s.state == v1::STAGE_STATE_QUEUED && !run.n.paused)
      step.act(dispatch_action(run, s.key));
    if (has_live_attempt(s)) step.act(reattach_action(run, s));
    if (s.state == v1::STAGE_STATE_CANCELLING) {
      const Timer* timer = run.timer(s.key, v1::TIMER_KIND_CANCEL);
      const int64_t due = timer ? timer->due_boot_ms : step.event.boot_ms();
      step.act(CancelAttempt{current_attempt(run, s.key),
                             "the daemon started again while it was being cancelled", due,
                             due - step.event.boot_ms()});
    }
    for (const std::string& borrower : s.rarely().borrowers)
      step.act(CheckBorrower{run.run_id, run.stage_name(s.key), s.key.map_index, borrower});
  }
}

void begin_again(Step& step, uint64_t incarnation, uint64_t boot) {
  RunState::Numbers& n = step.run.n;
  if (step.event.core_version() < 2 || incarnation > n.incarnation || boot != n.boot)
    step.change();
  n.incarnation = std::max(n.incarnation, incarnation);
  rearm(step, boot);
}

}  // namespace

void thaw(Step& step) {
  step.run.n.paused = false;
  for (Timer& t : step.timers()) {
    if (!t.frozen) continue;
    t.frozen = false;
    t.due_boot_ms = step.event.boot_ms() + t.left_ms;
    step.out.put_timers.push_back(t);
  }
}

void on_daemon_started(Step& step, const v1::DaemonStarted& e) {
  if (is_ended(step.run.n.phase)) return;
  begin_again(step, e.incarnation(), boot_hash(e.boot_id()));
  if (step.run.n.quarantined) return;
  put_all_timers(step);
  reissue(step);
}

void on_pause(Step& step, const v1::PauseRequested& e) {
  RunState::Numbers& n = step.run.n;
  if (n.phase != v1::RUN_STATE_QUEUED && n.phase != v1::RUN_STATE_RUNNING &&
      n.phase != v1::RUN_STATE_SERVING) {
    return step.refuse(ErrorCode::kConflict,
                       step.run.name + " cannot be paused: it has ended or is ending");
  }
  if (n.paused) return;
  n.paused = true;
  step.rare().paused_by = e.by();
  step.rare().pause_reason = e.reason().substr(0, 512);
  freeze(step);
}

void on_resume(Step& step, const v1::ResumeRequested& e) {
  if (!step.run.n.paused) return;
  thaw(step);
  step.rare().paused_by.clear();
  step.rare().pause_reason.clear();
  for (const StageInstance& s : step.run.stages) {
    if (s.state == v1::STAGE_STATE_QUEUED) step.act(dispatch_action(step.run, s.key));
  }
}

void on_changed(Step& step, const v1::RunChanged& e) {
  RunState& run = step.run;
  std::vector<std::pair<std::string, std::string>> labels = run.labels;
  for (const std::string& name : e.drop_labels()) {
    std::erase_if(labels, [&](const auto& l) { return l.first == name; });
  }
  for (const auto& [name, value] : e.put_labels()) {
    if (name.empty() || name.size() > limits::kNameBytes || value.size() > limits::kNameBytes) {
      return step.refuse(ErrorCode::kInvalidArgument,
                         "a label needs a name of 1 to 256 bytes and a value of at most 256");
    }
    std::erase_if(labels, [&, n = std::string_view(name)](const auto& l) { return l.first == n; });
    labels.emplace_back(name, value);
  }
  if (labels.size() > kLabelsMax)
    return step.refuse(ErrorCode::kInvalidArgument, "a run has at most 64 labels");
  std::sort(labels.begin(), labels.end());
  if (labels != run.labels) step.labels() = std::move(labels);
  if (e.has_priority() && e.priority() != run.n.priority) {
    run.n.priority = e.priority();
    step.change();
  }
}

void on_quarantined(Step& step, const v1::RunQuarantined& e) {
  RunState& run = step.run;
  if (is_ended(run.n.phase) || run.n.quarantined) return;
  run.n.quarantined = true;
  step.rare().quarantine_reason = e.reason().substr(0, 1024);
  for (const Timer& t : run.timers) {
    if (!t.frozen) step.out.drop_timers.push_back({t.key, t.kind});
  }
}

void on_released(Step& step, const v1::RunReleased& e) {
  if (!step.run.n.quarantined) return;
  step.change();
  step.run.n.quarantined = false;
  step.rare().quarantine_reason.clear();
  if (!e.boot_id().empty()) begin_again(step, e.incarnation(), boot_hash(e.boot_id()));
  put_all_timers(step);
  reissue(step);
  if (e.cancel()) end_it(step, v1::RUN_STATE_CANCELLED, e.by(), "released from quarantine");
}

}  // namespace bp::core
