// Timers that fired. A timer of an older attempt, or one that was disarmed meanwhile, is ignored.
#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

std::string seconds(int64_t ms) {
  return ms % 1000 == 0 ? std::to_string(ms / 1000) + " s" : std::to_string(ms) + " ms";
}

v1::ErrorInfo timeout_error(const StageKey& key, const std::string& what) {
  return make_error(ErrorCode::kDeadlineExceeded, "stage " + key.first + " " + what);
}

void time_out(Step& step, const StageKey& key, const std::string& what, v1::AfterCancel after,
              int64_t grace_ms) {
  StageInstance& s = step.stage(key);
  *s.body.mutable_error() = timeout_error(key, what);
  cancel_attempt(step, key, after, what, grace_ms);
}

void on_total(Step& step, const StageKey& key) {
  StageInstance& s = step.stage(key);
  const std::string what = "was not through within " +
                           seconds(step.definition(key).total_timeout_ms()) +
                           ", all attempts together";
  if (!has_live_attempt(s)) {
    fail_for_good(step, key, timeout_error(key, what));
  } else if (s.state != v1::STAGE_STATE_CANCELLING ||
             s.body.after_cancel() == v1::AFTER_CANCEL_RETRY) {
    time_out(step, key, what, v1::AFTER_CANCEL_FAIL, kCancelGraceMs);
  }
}

// The grace of a cancelled attempt is over.
void on_grace_over(Step& step, const StageKey& key) {
  if (step.stage(key).state != v1::STAGE_STATE_CANCELLING) return;
  step.act(KillHost{current_attempt(step.run, key), "it did not end in time"});
  step.arm(key, v1::TIMER_KIND_CANCEL, kKillAgainMs);
}

void on_queue(Step& step, const StageKey& key) {
  if (step.stage(key).state != v1::STAGE_STATE_QUEUED) return;
  attempt_failed(step, key,
                 timeout_error(key, "got no stage host within " +
                                        seconds(step.definition(key).queue_timeout_ms())),
                 true);
}

// Kept in the shell's memory: there is no row to compare with, so the epoch itself decides.
void on_heartbeat(Step& step, const StageKey& key, const v1::Epoch& epoch) {
  const StageInstance& s = step.stage(key);
  const bool runs = s.state == v1::STAGE_STATE_RUNNING || s.state == v1::STAGE_STATE_READY;
  if (!runs || s.body.epoch().counter() != epoch.counter()) return;
  time_out(step, key,
           "sent no heartbeat for " + seconds(step.definition(key).heartbeat_timeout_ms()),
           v1::AFTER_CANCEL_RETRY, kHungGraceMs);
}

}  // namespace

void on_timer(Step& step, const v1::TimerFired& e) {
  if (!step.find(e.stage(), e.map_index())) return;
  const StageKey key{e.stage(), e.map_index()};
  if (e.kind() == v1::TIMER_KIND_HEARTBEAT) return on_heartbeat(step, key, e.epoch());
  auto it = step.run.timers.find({key, e.kind()});
  if (it == step.run.timers.end() || it->second.epoch_counter != e.epoch().counter()) return;
  step.disarm(key, e.kind());
  step.touch(key);
  switch (e.kind()) {
    case v1::TIMER_KIND_RETRY:
      if (step.stage(key).state == v1::STAGE_STATE_BACKOFF)
        step.set_state(key, v1::STAGE_STATE_PENDING);
      break;
    case v1::TIMER_KIND_QUEUE:
      on_queue(step, key);
      break;
    case v1::TIMER_KIND_RUN:
      if (step.stage(key).state == v1::STAGE_STATE_RUNNING) {
        time_out(step, key, "took longer than " + seconds(step.definition(key).run_timeout_ms()),
                 v1::AFTER_CANCEL_RETRY, kCancelGraceMs);
      }
      break;
    case v1::TIMER_KIND_TOTAL:
      on_total(step, key);
      break;
    case v1::TIMER_KIND_CANCEL:
      on_grace_over(step, key);
      break;
    default:
      break;
  }
}

}  // namespace bp::core_v1
