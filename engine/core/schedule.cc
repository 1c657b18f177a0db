// Who may run now: a stage whose predecessors are through and none of whose successors still has a
// living attempt.
#include "engine/core/step.h"

namespace bp::core {
namespace {

bool through(const StageInstance& s) {
  return s.surplus || s.state == v1::STAGE_STATE_SUCCEEDED || s.state == v1::STAGE_STATE_READY;
}

bool is_active(const StageInstance& s) {
  return s.state == v1::STAGE_STATE_QUEUED || s.state == v1::STAGE_STATE_BACKOFF ||
         has_live_attempt(s);
}

bool stage_may_run(const RunState& run, const Summaries& all, StageIndex stage) {
  for (StageIndex before : run.workflow->before(stage)) {
    if (!all[before].through) return false;
  }
  for (StageIndex later : run.workflow->later(stage)) {
    if (all[later].live) return false;
  }
  return true;
}

// Runs in a shared host with nobody to ask: no slot, no host to choose.
bool starts_at_once(const Step& step, const StageInstance& s) {
  return step.event.may_dispatch() && step.run.workflow->shared(s.key.stage) && !s.in_own &&
         step.definition(s.key).limit_keys().empty() && step.run.submitted->limit_keys.empty();
}

void arm_total(Step& step, StageKey key) {
  const v1::StageDefinition& d = step.definition(key);
  if (d.total_timeout_ms() <= 0 || step.peek(key).mode != v1::ATTEMPT_MODE_APPLY) return;
  if (!step.run.timer(key, v1::TIMER_KIND_TOTAL))
    step.arm(key, v1::TIMER_KIND_TOTAL, d.total_timeout_ms());
}

void start_shared(Step& step, StageKey key) {
  StageInstance& s = step.stage(key);
  s.state = v1::STAGE_STATE_RUNNING;
  s.dispatched_once = true;
  s.started_wall_ms = step.event.wall_ms();
  const int64_t limit = step.definition(key).run_timeout_ms();
  if (limit > 0) step.arm(key, v1::TIMER_KIND_RUN, limit);
  if (step.run.n.phase == v1::RUN_STATE_QUEUED) step.run.n.phase = v1::RUN_STATE_RUNNING;
  step.act(SendShared{current_attempt(step.run, key), s.mode, plugin_of(step.run, key),
                      plugin_version_of(step.run, key)});
}

void new_epoch(Step& step, StageInstance& s) {
  ++s.attempt;
  ++s.attempts_total;
  s.epoch = Epoch{step.run.n.incarnation, ++step.run.n.epoch_counter};
  s.host.drop();
  s.after_cancel = v1::AFTER_CANCEL_UNSPECIFIED;
  s.ended_wall_ms = 0;
  if (s.rare && s.rare.get()->ready_boot_ms != 0) step.rare(s.key).ready_boot_ms = 0;
}

// True when something was queued, or has ended at once.
bool begin_stage(Step& step, StageKey key) {
  if (Status given = check_inputs(step.run, key); !given.ok()) {
    fail_for_good(step, key, make_error(given.error().code, given.error().message));
    return false;
  }
  if (step.run.workflow->has_plugin(key.stage)) {
    queue_attempt(step, key);
  } else {
    new_epoch(step, step.stage(key));
    begin_wait(step, key);
  }
  return true;
}

// Starts what may start of one stage; false when nothing did, or the run is ending.
bool begin_instances(Step& step, StageIndex stage, uint32_t active) {
  const Workflow& w = *step.run.workflow;
  const uint32_t allowed = w.stage(stage).map_parallel_max();
  bool begun = false;
  for (size_t i = 0; i < step.run.stages.size(); ++i) {
    const StageInstance& s = step.run.stages[i];
    if (s.key.stage < stage) continue;
    if (s.key.stage > stage) break;
    if (s.state != v1::STAGE_STATE_PENDING || s.surplus) continue;
    if (w.mapped(stage) && allowed > 0 && active >= allowed) break;
    if (!begin_stage(step, s.key)) return false;
    ++active;
    begun = true;
  }
  return begun;
}

// One round over the stages; true when a stage was over at once, so that others may follow.
bool queue_what_may_run(Step& step) {
  const Workflow& w = *step.run.workflow;
  const Summaries all = summarize(step.run);
  bool again = false;
  for (size_t i = 0; i < w.size(); ++i) {
    const auto stage = static_cast<StageIndex>(i);
    const StageSummary& of = all[stage];
    if (of.pending == 0 || !stage_may_run(step.run, all, stage)) continue;
    if (w.mapped(stage) && !of.expanded) {
      if (of.resting != 0) continue;
      if (!expand(step, stage)) return false;
      again = again || step.run.find(StageKey{stage, 0})->surplus;  // an empty list
    }
    if (begin_instances(step, stage, of.active) && !w.has_plugin(stage)) {
      again = again || step.peek({stage, 0}).state == v1::STAGE_STATE_SUCCEEDED;
    }
    if (step.run.n.phase == v1::RUN_STATE_STOPPING) return false;
  }
  return again;
}

// SERVING when every stage that keeps running is ready and the others are through; SUCCEEDED when
// none keeps running.
void move_run(Step& step) {
  RunState::Numbers& n = step.run.n;
  bool all_through = true;
  for (const StageInstance& s : step.run.stages) all_through = all_through && through(s);
  if (!all_through) {
    if (n.phase == v1::RUN_STATE_SERVING) n.phase = v1::RUN_STATE_RUNNING;
  } else if (step.run.workflow->any_keeps_running()) {
    n.phase = v1::RUN_STATE_SERVING;
    if (n.first_serving_wall_ms == 0) n.first_serving_wall_ms = step.event.wall_ms();
  } else {
    end_run(step, v1::RUN_STATE_SUCCEEDED);
  }
}

}  // namespace

Summaries summarize(const RunState& run) {
  Summaries all(run.workflow->size());
  for (const StageInstance& s : run.stages) {
    StageSummary& of = all[s.key.stage];
    const bool pending = s.state == v1::STAGE_STATE_PENDING && !s.surplus;
    of.active += is_active(s);
    of.pending += pending;
    of.resting += !pending && !s.surplus;
    of.expanded = of.expanded && (s.expanded || s.surplus);
    of.live = of.live || has_live_attempt(s);
    of.through = of.through && through(s);
    of.destroy_over = of.destroy_over && destroy_over(s);
  }
  return all;
}

const std::string& plugin_of(const RunState& run, StageKey key) {
  const v1::StageDefinition& d = run.definition(key);
  const StageInstance* s = run.find(key);
  const bool compensates =
      s && s->mode == v1::ATTEMPT_MODE_DESTROY && !d.compensation_plugin().empty();
  return compensates ? d.compensation_plugin() : d.plugin();
}

uint32_t plugin_version_of(const RunState& run, StageKey key) {
  const v1::StageDefinition& d = run.definition(key);
  const std::string& plugin = plugin_of(run, key);
  const uint32_t asked =
      &plugin == &d.plugin() ? d.plugin_version() : d.compensation_plugin_version();
  if (asked != 0 || !run.pins) return asked;
  for (const auto& [name, version] : run.pins->versions) {
    if (name == plugin) return version;
  }
  return 0;
}

DispatchAttempt dispatch_action(const RunState& run, StageKey key) {
  const StageInstance* s = run.find(key);
  CORE_CHECK(s != nullptr);
  return {current_attempt(run, key), s->mode, plugin_of(run, key), plugin_version_of(run, key)};
}

void queue_attempt(Step& step, StageKey key) {
  StageInstance& s = step.stage(key);
  CORE_CHECK(!has_live_attempt(s) && s.state != v1::STAGE_STATE_QUEUED);
  if (!s.rarely().lender.empty()) return_handle(step, key);  // from now on it makes its own
  new_epoch(step, s);
  if (starts_at_once(step, s)) {
    start_shared(step, key);
    return arm_total(step, key);
  }
  s.state = v1::STAGE_STATE_QUEUED;
  const v1::StageDefinition& d = step.definition(key);
  if (d.queue_timeout_ms() > 0) step.arm(key, v1::TIMER_KIND_QUEUE, d.queue_timeout_ms());
  arm_total(step, key);
  step.act(dispatch_action(step.run, key));
}

void schedule(Step& step) {
  RunState::Numbers& n = step.run.n;
  if (is_ended(n.phase) || n.phase == v1::RUN_STATE_NEEDS_HUMAN) return;
  const bool delayed = step.run.timer(kRunItself, v1::TIMER_KIND_SLEEP) != nullptr;
  if (n.phase != v1::RUN_STATE_STOPPING && !n.paused && !delayed) {
    while (queue_what_may_run(step)) {
    }
  }
  if (n.phase == v1::RUN_STATE_STOPPING) return advance_teardown(step);
  move_run(step);
}

}  // namespace bp::core
