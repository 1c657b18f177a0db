// The end of an attempt: its result, or the proof that its host is dead. Results of older attempts
// are fenced: put on record once, acknowledged, and without effect.
#include "engine/core/step.h"

namespace bp::core {
namespace {

v1::AttemptEnded as_failure(v1::ErrorInfo error) {
  v1::AttemptEnded e;
  *e.mutable_error() = std::move(error);
  e.set_retriable(true);
  return e;
}

v1::ErrorInfo last_failure(const StageInstance& s) {
  return s.failure ? *s.failure.get() : v1::ErrorInfo();
}

void fence(Step& step, StageKey key, const v1::AttemptEnded& e) {
  Attempt ref = current_attempt(step.run, key);
  ref.epoch = e.epoch();
  ref.host_id.clear();
  ref.host.Clear();
  step.act(AckResult{std::move(ref)});
  const StageInstance& s = step.peek(key);
  const uint64_t counter = e.epoch().counter();
  const bool known = counter == s.last_ended_counter || counter <= s.rarely().last_late_counter;
  if (known || same(s.epoch, e.epoch())) return;
  step.rare(key).last_late_counter = counter;
  step.out.record.set_core_version(step.event.core_version());
  step.out.record.set_wall_ms(step.event.wall_ms());
  step.out.record.set_boot_ms(step.event.boot_ms());
  v1::EndedWasLate* late = step.out.record.mutable_ended_was_late();
  late->set_stage(e.stage());
  late->set_map_index(e.map_index());
  *late->mutable_epoch() = e.epoch();
  *late->mutable_current() = to_wire(s.epoch);
}

void succeed(Step& step, StageKey key, const v1::AttemptEnded& e) {
  StageInstance& s = step.stage(key);
  if (s.mode == v1::ATTEMPT_MODE_APPLY && !e.payloads().empty() &&
      step.run.workflow->mapped(key.stage)) {
    return fail_for_good(step, key,
                         make_error(ErrorCode::kTooLarge,
                                    "an output of mapped stage " + step.run.stage_name(key) +
                                        " is too large to be joined into a list"));
  }
  step.disarm_all(key);
  s.failures = 0;
  s.failure.drop();
  if (s.mode == v1::ATTEMPT_MODE_DESTROY) {
    if (s.rare) {
      StageInstance::Rare& rare = step.rare(key);
      rare.handle.clear();
      rare.checkpoint.clear();
      rare.survivors.clear();
    }
    s.outputs = nullptr;
    s.state = v1::STAGE_STATE_DESTROYED;
    return;
  }
  s.outputs = to_values(e.outputs(), e.payloads());
  s.state = v1::STAGE_STATE_SUCCEEDED;
}

std::vector<std::string> survivors_of(const v1::AttemptEnded& e) {
  return {e.survivors().begin(), e.survivors().end()};
}

// An attempt that nobody had cancelled.
void judge(Step& step, StageKey key, const v1::AttemptEnded& e) {
  const std::string& name = step.run.stage_name(key);
  const bool destroying = step.peek(key).mode == v1::ATTEMPT_MODE_DESTROY;
  if (!destroying && !e.rewind_to_stage().empty()) {
    rewind(step, key, e);
  } else if (e.needs_human()) {
    if (destroying) {
      destroy_gave_up(step, key, e.error(), survivors_of(e));
    } else {
      fail_for_good(step, key, e.error());
    }
  } else if (e.succeeded() && !destroying && step.definition(key).keeps_running()) {
    attempt_failed(
        step, key,
        make_error(ErrorCode::kUnavailable, "stage " + name + " ended, but should keep running"),
        true);
  } else if (e.succeeded()) {
    succeed(step, key, e);
  } else if (e.cancelled()) {
    attempt_failed(
        step, key,
        make_error(ErrorCode::kCancelled, "stage " + name + " ended as cancelled, unasked"), true);
  } else {
    attempt_failed(step, key, e.error(), e.retriable());
  }
}

// An attempt that had been told to end: what follows was decided then. Success is still success.
void after_cancel(Step& step, StageKey key, const v1::AttemptEnded& e) {
  StageInstance& s = step.stage(key);
  const v1::AfterCancel after = s.after_cancel;
  const bool destroying = s.mode == v1::ATTEMPT_MODE_DESTROY;
  s.after_cancel = v1::AFTER_CANCEL_UNSPECIFIED;
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
      return fail_for_good(step, key, last_failure(s));
    default:
      if (whole) return succeed(step, key, e);
      if (!destroying && !e.rewind_to_stage().empty()) return rewind(step, key, e);
      return attempt_failed(step, key, last_failure(s), true);
  }
}

// The attempt is proven dead: the stage has none, until it is decided what follows. Its timers go,
// the total stays.
void bury(Step& step, StageKey key) {
  StageInstance& s = step.stage(key);
  s.last_ended_counter = s.epoch.counter;
  s.ended_wall_ms = step.event.wall_ms();
  s.host.drop();
  step.disarm_attempt(key);
  s.state = v1::STAGE_STATE_PENDING;
}

}  // namespace

void on_ended(Step& step, const v1::AttemptEnded& e) {
  const StageInstance* s = step.find(e.stage(), e.map_index());
  if (!s) return;
  const StageKey key = s->key;
  if (!has_live_attempt(*s) || !same(s->epoch, e.epoch())) {
    fence(step, key, e);
    return;
  }
  step.act(AckResult{current_attempt(step.run, key)});
  const bool cancelling = s->state == v1::STAGE_STATE_CANCELLING;
  bury(step, key);
  if (!e.handle().empty()) step.rare(key).handle = e.handle();
  if (cancelling) {
    after_cancel(step, key, e);
  } else {
    judge(step, key, e);
  }
}

void on_ended_was_late(Step& step, const v1::EndedWasLate& e) {
  const StageInstance* s = step.find(e.stage(), e.map_index());
  if (!s || e.epoch().counter() <= s->rarely().last_late_counter) return;
  step.rare(s->key).last_late_counter = e.epoch().counter();
}

namespace {

// It had reached its goal: the next attempt starts at once, unless losses follow one another.
void lost_when_ready(Step& step, StageKey key, v1::ErrorInfo error) {
  StageInstance& s = step.stage(key);
  s.failure.make() = std::move(error);
  StageInstance::Rare& rare = step.rare(key);
  const bool stable = step.event.boot_ms() - rare.ready_boot_ms >= kStableReadyMs;
  rare.quick_losses = stable ? 0 : rare.quick_losses + 1;
  if (rare.quick_losses <= 1) {
    s.state = v1::STAGE_STATE_PENDING;
    return;
  }
  s.state = v1::STAGE_STATE_BACKOFF;
  step.arm(key, v1::TIMER_KIND_RETRY,
           retry_delay_ms(step.definition(key).retry(), step.run, key, rare.quick_losses - 1));
}

}  // namespace

void on_lost(Step& step, const v1::AttemptLost& e) {
  const StageInstance* s = step.find(e.stage(), e.map_index());
  if (!s || !has_live_attempt(*s) || !same(s->epoch, e.epoch())) return;
  const StageKey key = s->key;
  const v1::StageState was = s->state;
  bury(step, key);
  const v1::AttemptEnded failure = as_failure(make_error(
      ErrorCode::kPluginCrash, "plugin " + plugin_of(step.run, key) + ": the stage host of " +
                                   step.run.stage_name(key) + " is gone: " + e.reason()));
  if (was == v1::STAGE_STATE_CANCELLING) return after_cancel(step, key, failure);
  if (e.shared_host_died()) {
    // Perhaps another attempt's fault: it runs again, alone, at once and free of charge.
    step.stage(key).in_own = true;
    step.stage(key).failure.make() = failure.error();
    return;
  }
  if (was != v1::STAGE_STATE_READY) return attempt_failed(step, key, failure.error(), true);
  lost_when_ready(step, key, failure.error());
}

}  // namespace bp::core
