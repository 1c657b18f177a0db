// From dispatch to ready: what an attempt reports while it lives.
#include "engine/core/step.h"

namespace bp::core {
namespace {

// The stage whose living attempt has this epoch; null for an older attempt or an unknown stage.
template <class E>
const StageInstance* living(const Step& step, const E& e) {
  const StageInstance* s = step.find(e.stage(), e.map_index());
  return s && has_live_attempt(*s) && same(s->epoch, e.epoch()) ? s : nullptr;
}

}  // namespace

void on_dispatched(Step& step, const v1::AttemptDispatched& e) {
  const StageInstance* found = step.find(e.stage(), e.map_index());
  if (!found || found->state != v1::STAGE_STATE_QUEUED || !same(found->epoch, e.epoch())) return;
  if (step.run.n.paused) return;  // it is dispatched anew when the run goes on
  const StageKey key = found->key;
  StageInstance& s = step.stage(key);
  const v1::StageDefinition& d = step.definition(key);
  step.disarm(key, v1::TIMER_KIND_QUEUE);
  s.state = v1::STAGE_STATE_RUNNING;
  s.dispatched_once = true;
  s.started_wall_ms = step.event.wall_ms();
  if (d.run_timeout_ms() > 0) step.arm(key, v1::TIMER_KIND_RUN, d.run_timeout_ms());
  if (step.run.n.phase == v1::RUN_STATE_QUEUED) step.run.n.phase = v1::RUN_STATE_RUNNING;
  const bool shared = step.run.workflow->shared(key.stage) && !s.in_own;
  if (!shared) s.host.make().id = e.host_id();
  Attempt ref = current_attempt(step.run, key);
  const std::string& plugin = plugin_of(step.run, key);
  const uint32_t version = plugin_version_of(step.run, key);
  if (shared) {
    step.act(SendShared{std::move(ref), s.mode, plugin, version});
  } else {
    step.act(StartHost{std::move(ref), s.mode, plugin, version});
  }
}

void on_host_started(Step& step, const v1::AttemptHostStarted& e) {
  const StageInstance* found = living(step, e);
  if (!found || !found->host || found->process()) return;
  StageInstance& s = step.stage(found->key);
  s.host.make().process = e.process();
  if (s.state == v1::STAGE_STATE_CANCELLING) {
    // Cancelled before it was told what to do: nothing to end gently.
    step.act(KillHost{current_attempt(step.run, s.key), "cancelled before it began"});
  } else {
    step.act(SendAttempt{current_attempt(step.run, s.key)});
  }
}

void on_checkpointed(Step& step, const v1::AttemptCheckpointed& e) {
  const StageInstance* s = living(step, e);
  if (!s) return;
  const bool new_checkpoint = !e.checkpoint().empty() && e.checkpoint() != s->checkpoint();
  const bool new_handle = !e.handle().empty() && e.handle() != s->handle();
  if (!new_checkpoint && !new_handle) return;
  StageInstance::Rare& rare = step.rare(s->key);
  if (new_checkpoint) rare.checkpoint = e.checkpoint();
  if (new_handle) rare.handle = e.handle();
}

void on_ready(Step& step, const v1::AttemptBecameReady& e) {
  const StageInstance* found = living(step, e);
  if (!found || found->state != v1::STAGE_STATE_RUNNING ||
      !step.definition(found->key).keeps_running() || found->mode != v1::ATTEMPT_MODE_APPLY) {
    return;
  }
  step.disarm_all(found->key);
  StageInstance& s = step.stage(found->key);
  s.state = v1::STAGE_STATE_READY;
  s.failures = 0;
  s.failure.drop();
  s.outputs = to_values(e.outputs(), e.payloads());
  StageInstance::Rare& rare = step.rare(s.key);
  rare.ready_boot_ms = step.event.boot_ms();
  if (!e.handle().empty()) rare.handle = e.handle();
  step.run.n.rewinds_since_ready = 0;
}

}  // namespace bp::core
