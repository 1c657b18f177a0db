// Who may run now: a stage whose predecessors are through and none of whose successors still has a
// living attempt.
#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

bool through(const StageInstance& s) {
  return s.state == v1::STAGE_STATE_SUCCEEDED || s.state == v1::STAGE_STATE_READY;
}

bool predecessors_through(const RunState& run, const v1::StageDefinition& d) {
  for (const auto& [key, instance] : run.stages) {
    for (const std::string& before : d.after()) {
      if (key.first == before && !through(instance)) return false;
    }
  }
  return true;
}

void queue_what_may_run(Step& step) {
  for (const StageKey& key : ordered_keys(step.run)) {
    if (step.stage(key).state != v1::STAGE_STATE_PENDING) continue;
    if (!predecessors_through(step.run, step.definition(key))) continue;
    if (any_live(step.run, successors(step.run.body.workflow(), key.first))) continue;
    queue_attempt(step, key);
  }
}

// SERVING when every stage that keeps running is ready and the others are through; SUCCEEDED when
// none keeps running.
void move_run(Step& step) {
  bool all_through = true;
  bool any_keeps_running = false;
  for (const auto& [key, instance] : step.run.stages) {
    all_through = all_through && through(instance);
    any_keeps_running = any_keeps_running || step.definition(key).keeps_running();
  }
  if (!all_through) {
    if (step.run.state == v1::RUN_STATE_SERVING) step.run.state = v1::RUN_STATE_RUNNING;
  } else if (any_keeps_running) {
    step.run.state = v1::RUN_STATE_SERVING;
    if (step.run.body.first_serving_wall_ms() == 0) {
      step.run.body.set_first_serving_wall_ms(step.event.wall_ms());
    }
  } else {
    end_run(step, v1::RUN_STATE_SUCCEEDED);
  }
}

}  // namespace

DispatchAttempt dispatch_action(const RunState& run, const StageKey& key) {
  const v1::StageDefinition* d = stage_definition(run, key.first);
  BP_CHECK(d != nullptr);
  return {current_attempt(run, key), run.stages.at(key).body.mode(), d->plugin(),
          d->plugin_version()};
}

void queue_attempt(Step& step, const StageKey& key) {
  StageInstance& s = step.stage(key);
  BP_CHECK(!has_live_attempt(s) && s.state != v1::STAGE_STATE_QUEUED);
  step.set_state(key, v1::STAGE_STATE_QUEUED);
  v1::StageBody& b = s.body;
  b.set_attempt(b.attempt() + 1);
  b.set_attempts_total(b.attempts_total() + 1);
  b.mutable_epoch()->set_incarnation(step.run.body.incarnation());
  b.mutable_epoch()->set_counter(++step.run.epoch_counter);
  b.clear_host_id();
  b.clear_host();
  b.set_after_cancel(v1::AFTER_CANCEL_UNSPECIFIED);
  b.set_ended_wall_ms(0);
  b.set_ready_boot_ms(0);
  const v1::StageDefinition& d = step.definition(key);
  if (d.queue_timeout_ms() > 0) step.arm(key, v1::TIMER_KIND_QUEUE, d.queue_timeout_ms());
  const bool covered = step.run.timers.count({key, v1::TIMER_KIND_TOTAL}) != 0;
  if (d.total_timeout_ms() > 0 && b.mode() == v1::ATTEMPT_MODE_APPLY && !covered) {
    step.arm(key, v1::TIMER_KIND_TOTAL, d.total_timeout_ms());
  }
  step.act(dispatch_action(step.run, key));
}

void schedule(Step& step) {
  if (is_ended(step.run.state) || step.run.state == v1::RUN_STATE_NEEDS_HUMAN) return;
  if (step.run.state == v1::RUN_STATE_STOPPING) {
    advance_teardown(step);
    return;
  }
  queue_what_may_run(step);
  move_run(step);
}

}  // namespace bp::core_v1
