// The end of an attempt: its result, or the proof that its host is dead. Results of older attempts
// are fenced: put on record once, acknowledged, and without effect.
#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

bool same(const v1::Epoch& a, const v1::Epoch& b) {
  return a.incarnation() == b.incarnation() && a.counter() == b.counter();
}

v1::AttemptEnded as_failure(v1::ErrorInfo error) {
  v1::AttemptEnded e;
  *e.mutable_error() = std::move(error);
  e.set_retriable(true);
  return e;
}

void fence(Step& step, const StageKey& key, const v1::AttemptEnded& e) {
  StageInstance& s = step.stage(key);
  Attempt ref = current_attempt(step.run, key);
  ref.epoch = e.epoch();
  ref.host_id.clear();
  ref.host.Clear();
  step.act(AckResult{std::move(ref)});
  const uint64_t counter = e.epoch().counter();
  const bool known =
      counter == s.body.last_ended_counter() || counter <= s.body.last_late_counter();
  if (known || same(e.epoch(), s.body.epoch())) return;
  s.body.set_last_late_counter(counter);
  step.touch(key);
  v1::EndedWasLate* late = step.record.mutable_ended_was_late();
  late->set_stage(key.first);
  late->set_map_index(key.second);
  *late->mutable_epoch() = e.epoch();
  *late->mutable_current() = s.body.epoch();
}

void succeed(Step& step, const StageKey& key, const v1::AttemptEnded& e) {
  StageInstance& s = step.stage(key);
  step.disarm_all(key);
  s.body.set_failures(0);
  s.body.clear_error();
  if (s.body.mode() == v1::ATTEMPT_MODE_DESTROY) {
    s.body.clear_handle();
    s.body.clear_checkpoint();
    s.body.clear_outputs();
    s.body.clear_survivors();
    step.set_state(key, v1::STAGE_STATE_DESTROYED);
    return;
  }
  *s.body.mutable_outputs() = e.outputs();
  step.set_state(key, v1::STAGE_STATE_SUCCEEDED);
}

std::vector<std::string> survivors_of(const v1::AttemptEnded& e) {
  return {e.survivors().begin(), e.survivors().end()};
}

// An attempt that nobody had cancelled.
void judge(Step& step, const StageKey& key, const v1::AttemptEnded& e) {
  const bool destroying = step.stage(key).body.mode() == v1::ATTEMPT_MODE_DESTROY;
  if (!destroying && !e.rewind_to_stage().empty()) {
    rewind(step, key, e);
  } else if (e.needs_human()) {
    if (destroying) {
      destroy_gave_up(step, key, e.error(), survivors_of(e));
    } else {
      fail_for_good(step, key, e.error());
    }
  } else if (e.succeeded() && !destroying && step.definition(key).keeps_running()) {
    attempt_failed(step, key,
                   make_error(ErrorCode::kUnavailable,
                              "stage " + key.first + " ended, but should keep running"),
                   true);
  } else if (e.succeeded()) {
    succeed(step, key, e);
  } else if (e.cancelled()) {
    attempt_failed(
        step, key,
        make_error(ErrorCode::kCancelled, "stage " + key.first + " ended as cancelled, unasked"),
        true);
  } else {
    attempt_failed(step, key, e.error(), e.retriable());
  }
}

// An attempt that had been told to end: what follows was decided then. Success is still success.
void after_cancel(Step& step, const StageKey& key, const v1::AttemptEnded& e) {
  StageInstance& s = step.stage(key);
  const v1::AfterCancel after = s.body.after_cancel();
  const bool destroying = s.body.mode() == v1::ATTEMPT_MODE_DESTROY;
  s.body.set_after_cancel(v1::AFTER_CANCEL_UNSPECIFIED);
  const bool whole = e.succeeded() && (destroying || !step.definition(key).keeps_running());
  switch (after) {
    case v1::AFTER_CANCEL_TEARDOWN:
      halt_stage(step, key);
      return;
    case v1::AFTER_CANCEL_REWIND:
      step.disarm_all(key);
      step.set_state(key, v1::STAGE_STATE_PENDING);
      return;
    case v1::AFTER_CANCEL_FAIL:
      if (whole) return succeed(step, key, e);
      return fail_for_good(step, key, s.body.error());
    default:
      if (whole) return succeed(step, key, e);
      if (!destroying && !e.rewind_to_stage().empty()) return rewind(step, key, e);
      return attempt_failed(step, key, s.body.error(), true);
  }
}

// The attempt is proven dead: the stage has none, until it is decided what follows. Its timers go,
// the total stays.
void bury(Step& step, const StageKey& key) {
  StageInstance& s = step.stage(key);
  s.body.set_last_ended_counter(s.body.epoch().counter());
  s.body.set_ended_wall_ms(step.event.wall_ms());
  s.body.clear_host_id();
  s.body.clear_host();
  step.disarm_attempt(key);
  step.set_state(key, v1::STAGE_STATE_PENDING);
}

}  // namespace

void on_ended(Step& step, const v1::AttemptEnded& e) {
  StageInstance* s = step.find(e.stage(), e.map_index());
  if (!s) return;
  const StageKey key{e.stage(), e.map_index()};
  if (!has_live_attempt(*s) || !same(s->body.epoch(), e.epoch())) {
    fence(step, key, e);
    return;
  }
  step.act(AckResult{current_attempt(step.run, key)});
  const bool cancelling = s->state == v1::STAGE_STATE_CANCELLING;
  bury(step, key);
  if (!e.handle().empty()) s->body.set_handle(e.handle());
  if (cancelling) {
    after_cancel(step, key, e);
  } else {
    judge(step, key, e);
  }
}

void on_ended_was_late(Step& step, const v1::EndedWasLate& e) {
  StageInstance* s = step.find(e.stage(), e.map_index());
  if (!s || e.epoch().counter() <= s->body.last_late_counter()) return;
  s->body.set_last_late_counter(e.epoch().counter());
  step.touch({e.stage(), e.map_index()});
}

void on_lost(Step& step, const v1::AttemptLost& e) {
  StageInstance* s = step.find(e.stage(), e.map_index());
  if (!s || !has_live_attempt(*s) || !same(s->body.epoch(), e.epoch())) return;
  const StageKey key{e.stage(), e.map_index()};
  const v1::StageState was = s->state;
  bury(step, key);
  const v1::AttemptEnded failure = as_failure(make_error(
      ErrorCode::kPluginCrash, "plugin " + step.definition(key).plugin() + ": the stage host of " +
                                   key.first + " is gone: " + e.reason()));
  if (was == v1::STAGE_STATE_CANCELLING) return after_cancel(step, key, failure);
  if (was != v1::STAGE_STATE_READY) return attempt_failed(step, key, failure.error(), true);
  // It had reached its goal: the next attempt starts at once, unless losses follow one another.
  *s->body.mutable_error() = failure.error();
  const bool stable = step.event.boot_ms() - s->body.ready_boot_ms() >= kStableReadyMs;
  s->body.set_quick_losses(stable ? 0 : s->body.quick_losses() + 1);
  if (s->body.quick_losses() <= 1) {
    step.set_state(key, v1::STAGE_STATE_PENDING);
    return;
  }
  step.set_state(key, v1::STAGE_STATE_BACKOFF);
  step.arm(key, v1::TIMER_KIND_RETRY,
           retry_delay_ms(step.definition(key).retry(), step.run, key, s->body.quick_losses() - 1));
}

}  // namespace bp::core_v1
