// Timers that fired. A timer of an older attempt, or one that was disarmed or frozen meanwhile, is
// ignored.
#include "engine/core/step.h"

namespace bp::core {
namespace {

std::string seconds(int64_t ms) {
  return ms % 1000 == 0 ? std::to_string(ms / 1000) + " s" : std::to_string(ms) + " ms";
}

v1::ErrorInfo timeout_error(const Step& step, StageKey key, const std::string& what) {
  return make_error(ErrorCode::kDeadlineExceeded,
                    "stage " + step.run.stage_name(key) + " " + what);
}

void time_out(Step& step, StageKey key, const std::string& what, v1::AfterCancel after,
              int64_t grace_ms) {
  step.stage(key).failure.make() = timeout_error(step, key, what);
  cancel_attempt(step, key, after, what, grace_ms);
}

void on_total(Step& step, StageKey key) {
  const StageInstance& s = step.peek(key);
  const std::string what = "was not through within " +
                           seconds(step.definition(key).total_timeout_ms()) +
                           ", all attempts together";
  if (!has_live_attempt(s)) {
    fail_for_good(step, key, timeout_error(step, key, what));
  } else if (s.state != v1::STAGE_STATE_CANCELLING || s.after_cancel == v1::AFTER_CANCEL_RETRY) {
    time_out(step, key, what, v1::AFTER_CANCEL_FAIL, kCancelGraceMs);
  }
}

// The grace of a cancelled attempt is over.
void on_grace_over(Step& step, StageKey key) {
  if (step.peek(key).state != v1::STAGE_STATE_CANCELLING) return;
  step.act(KillHost{current_attempt(step.run, key), "it did not end in time"});
  step.arm(key, v1::TIMER_KIND_CANCEL, kKillAgainMs);
}

void on_queue(Step& step, StageKey key) {
  if (step.peek(key).state != v1::STAGE_STATE_QUEUED) return;
  attempt_failed(step, key,
                 timeout_error(step, key,
                               "got no stage host within " +
                                   seconds(step.definition(key).queue_timeout_ms())),
                 true);
}

void on_run_limit(Step& step, StageKey key) {
  if (step.peek(key).state != v1::STAGE_STATE_RUNNING) return;
  time_out(step, key, "took longer than " + seconds(step.definition(key).run_timeout_ms()),
           v1::AFTER_CANCEL_RETRY, kCancelGraceMs);
}

void on_no_signal(Step& step, StageKey key) {
  if (step.peek(key).state != v1::STAGE_STATE_WAITING) return;
  const v1::StageDefinition& d = step.definition(key);
  attempt_failed(step, key,
                 timeout_error(step, key,
                               "got no signal " + d.wait_signal() + " within " +
                                   seconds(d.run_timeout_ms())),
                 true);
}

// Kept in the shell's memory: there is no timer to compare with, so the epoch itself decides.
void on_silence(Step& step, StageKey key, const v1::TimerFired& e) {
  const StageInstance& s = step.peek(key);
  const bool runs = s.state == v1::STAGE_STATE_RUNNING || s.state == v1::STAGE_STATE_READY;
  if (!runs || s.epoch.counter != e.epoch().counter()) return;
  const v1::StageDefinition& d = step.definition(key);
  const bool silent = e.kind() == v1::TIMER_KIND_HEARTBEAT;
  const std::string what = silent ? "sent no heartbeat for " + seconds(d.heartbeat_timeout_ms())
                                  : "made no progress for " + seconds(d.progress_timeout_ms());
  time_out(step, key, what, v1::AFTER_CANCEL_RETRY, kHungGraceMs);
}

void on_run_timer(Step& step, v1::TimerKind kind) {
  RunState& run = step.run;
  step.disarm(kRunItself, kind);
  if (kind != v1::TIMER_KIND_RUN_TOTAL) return;
  const int64_t limit = run.workflow->definition().run_total_timeout_ms();
  if (is_ended(run.n.phase) || run.n.phase == v1::RUN_STATE_STOPPING ||
      run.n.phase == v1::RUN_STATE_NEEDS_HUMAN)
    return;
  fail_run(step, make_error(ErrorCode::kDeadlineExceeded,
                            "the run was not through within " + seconds(limit)));
}

void on_stage_timer(Step& step, StageKey key, v1::TimerKind kind) {
  step.disarm(key, kind);
  switch (kind) {
    case v1::TIMER_KIND_RETRY:
      if (step.peek(key).state == v1::STAGE_STATE_BACKOFF)
        step.set_state(key, v1::STAGE_STATE_PENDING);
      break;
    case v1::TIMER_KIND_QUEUE:
      return on_queue(step, key);
    case v1::TIMER_KIND_RUN:
      return on_run_limit(step, key);
    case v1::TIMER_KIND_TOTAL:
      return on_total(step, key);
    case v1::TIMER_KIND_CANCEL:
      return on_grace_over(step, key);
    case v1::TIMER_KIND_SLEEP:
      if (step.peek(key).state == v1::STAGE_STATE_WAITING) wait_over(step, key, nullptr);
      break;
    case v1::TIMER_KIND_SIGNAL:
      return on_no_signal(step, key);
    default:
      break;
  }
}

}  // namespace

void on_timer(Step& step, const v1::TimerFired& e) {
  const bool of_run = e.stage().empty();
  const StageInstance* s = of_run ? nullptr : step.find(e.stage(), e.map_index());
  if (!of_run && !s) return;
  const StageKey key = of_run ? kRunItself : s->key;
  const v1::TimerKind kind = e.kind();
  if (kind == v1::TIMER_KIND_HEARTBEAT || kind == v1::TIMER_KIND_PROGRESS) {
    if (s) on_silence(step, key, e);
    return;
  }
  const Timer* timer = step.run.timer(key, kind);
  if (!timer || timer->frozen || timer->epoch_counter != e.epoch().counter()) return;
  if (of_run) return on_run_timer(step, kind);
  on_stage_timer(step, key, kind);
}

}  // namespace bp::core
