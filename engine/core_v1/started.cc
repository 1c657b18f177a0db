// The daemon has started again: new epochs belong to its incarnation, timers are armed on its boot,
// and every action that follows from the state is emitted anew.
#include <algorithm>

#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

// Timers stay bound to the attempt that they were set for.
void rearm(Step& step, const std::string& boot_id) {
  const std::map<TimerKey, storage::TimerRow> timers = step.run.timers;
  for (const auto& [key, old] : timers) {
    storage::TimerRow row = old;
    const int64_t left =
        old.boot_id == boot_id ? old.due_boot_ms - step.event.boot_ms() : old.remaining_ms;
    row.remaining_ms = std::max<int64_t>(0, left);
    row.due_boot_ms = step.event.boot_ms() + row.remaining_ms;
    row.boot_id = boot_id;
    step.put_timer(row);
  }
}

}  // namespace

void on_daemon_started(Step& step, const v1::DaemonStarted& e) {
  RunState& run = step.run;
  if (!run.live) return;
  step.change();
  run.body.set_incarnation(std::max(run.body.incarnation(), e.incarnation()));
  run.body.set_boot_id(e.boot_id());
  rearm(step, e.boot_id());
  for (const StageKey& key : ordered_keys(run)) {
    const StageInstance& s = step.stage(key);
    if (s.state == v1::STAGE_STATE_QUEUED) step.act(dispatch_action(run, key));
    if (has_live_attempt(s)) step.act(ReattachAttempt{current_attempt(run, key)});
    if (s.state == v1::STAGE_STATE_CANCELLING) {
      auto timer = run.timers.find({key, v1::TIMER_KIND_CANCEL});
      const int64_t due =
          timer == run.timers.end() ? step.event.boot_ms() : timer->second.due_boot_ms;
      step.act(CancelAttempt{current_attempt(run, key),
                             "the daemon started again while it was being cancelled", due,
                             due - step.event.boot_ms()});
    }
  }
}

}  // namespace bp::core_v1
