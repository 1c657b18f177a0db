// From dispatch to ready: what an attempt reports while it lives.
#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

bool same(const v1::Epoch& a, const v1::Epoch& b) {
  return a.incarnation() == b.incarnation() && a.counter() == b.counter();
}

// The stage whose living attempt has this epoch; null for an older attempt or an unknown stage.
template <class E>
StageInstance* living(Step& step, const E& e) {
  StageInstance* s = step.find(e.stage(), e.map_index());
  return s && has_live_attempt(*s) && same(s->body.epoch(), e.epoch()) ? s : nullptr;
}

}  // namespace

void on_dispatched(Step& step, const v1::AttemptDispatched& e) {
  StageInstance* s = step.find(e.stage(), e.map_index());
  if (!s || s->state != v1::STAGE_STATE_QUEUED || !same(s->body.epoch(), e.epoch())) return;
  const StageKey key{e.stage(), e.map_index()};
  const v1::StageDefinition& d = step.definition(key);
  step.disarm(key, v1::TIMER_KIND_QUEUE);
  step.set_state(key, v1::STAGE_STATE_RUNNING);
  s->body.set_host_id(e.host_id());
  s->body.set_dispatched_once(true);
  s->body.set_started_wall_ms(step.event.wall_ms());
  if (d.run_timeout_ms() > 0) step.arm(key, v1::TIMER_KIND_RUN, d.run_timeout_ms());
  if (step.run.state == v1::RUN_STATE_QUEUED) step.run.state = v1::RUN_STATE_RUNNING;
  step.act(
      StartHost{current_attempt(step.run, key), s->body.mode(), d.plugin(), d.plugin_version()});
}

void on_host_started(Step& step, const v1::AttemptHostStarted& e) {
  StageInstance* s = living(step, e);
  if (!s || s->body.has_host()) return;
  const StageKey key{e.stage(), e.map_index()};
  *s->body.mutable_host() = e.process();
  step.touch(key);
  if (s->state == v1::STAGE_STATE_CANCELLING) {
    // Cancelled before it was told what to do: nothing to end gently.
    step.act(KillHost{current_attempt(step.run, key), "cancelled before it began"});
  } else {
    step.act(SendAttempt{current_attempt(step.run, key)});
  }
}

void on_checkpointed(Step& step, const v1::AttemptCheckpointed& e) {
  StageInstance* s = living(step, e);
  if (!s) return;
  const bool new_checkpoint = !e.checkpoint().empty() && e.checkpoint() != s->body.checkpoint();
  const bool new_handle = !e.handle().empty() && e.handle() != s->body.handle();
  if (!new_checkpoint && !new_handle) return;
  if (new_checkpoint) s->body.set_checkpoint(e.checkpoint());
  if (new_handle) s->body.set_handle(e.handle());
  step.touch({e.stage(), e.map_index()});
}

void on_ready(Step& step, const v1::AttemptBecameReady& e) {
  StageInstance* s = living(step, e);
  const StageKey key{e.stage(), e.map_index()};
  if (!s || s->state != v1::STAGE_STATE_RUNNING || !step.definition(key).keeps_running() ||
      s->body.mode() != v1::ATTEMPT_MODE_APPLY) {
    return;
  }
  step.disarm_all(key);
  step.set_state(key, v1::STAGE_STATE_READY);
  s->body.set_ready_boot_ms(step.event.boot_ms());
  s->body.set_failures(0);
  s->body.clear_error();
  if (!e.handle().empty()) s->body.set_handle(e.handle());
  *s->body.mutable_outputs() = e.outputs();
  step.run.body.set_rewinds_since_ready(0);
}

}  // namespace bp::core_v1
