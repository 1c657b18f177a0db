// What people ask for: cancel, stop, retry.
#include "engine/core/step.h"

namespace bp::core {
namespace {

bool anything_to_destroy(const RunState& run) {
  for (const StageInstance& s : run.stages) {
    if (needs_destroy(run, s)) return true;
  }
  return false;
}

// Teardown once more, of what could not be confirmed gone.
void tear_down_again(Step& step) {
  step.run.n.phase = v1::RUN_STATE_STOPPING;
  step.run.n.teardown_needs_human = false;
  step.rare().survivors.clear();
  for (size_t i = 0; i < step.run.stages.size(); ++i) {
    const StageInstance& s = step.run.stages[i];
    if (s.mode != v1::ATTEMPT_MODE_DESTROY || s.state != v1::STAGE_STATE_FAILED) continue;
    step.stage(s.key).failures = 0;
    step.rare(s.key).survivors.clear();
    step.set_state(s.key, v1::STAGE_STATE_PENDING);
  }
}

void refuse_retry(Step& step) {
  const RunState& run = step.run;
  if (!is_ended(run.n.phase)) {
    const bool human = run.n.phase == v1::RUN_STATE_NEEDS_HUMAN;
    return step.refuse(
        ErrorCode::kConflict,
        run.name + (human ? " still has survivors of its last teardown" : " has not ended"),
        human ? "Run `bp stop " + run.name + "` until they are confirmed gone, then retry"
              : "Wait, or `bp stop " + run.name + "` first");
  }
  if (run.n.phase == v1::RUN_STATE_STOPPED || run.n.phase == v1::RUN_STATE_CANCELLED) {
    step.refuse(ErrorCode::kConflict,
                run.name + " was ended on request, and its secrets were deleted",
                "Submit its recipe again");
  }
}

// Stages of which every instance has succeeded, was not torn down, and runs not after one that must
// run again.
std::vector<bool> kept_stages(const RunState& run) {
  const Workflow& w = *run.workflow;
  std::vector<bool> done(w.size(), true);
  for (const StageInstance& s : run.stages) {
    if (!s.surplus && s.state != v1::STAGE_STATE_SUCCEEDED) done[s.key.stage] = false;
  }
  std::vector<bool> kept = done;
  for (size_t i = 0; i < w.size(); ++i) {
    for (StageIndex before : w.earlier(static_cast<StageIndex>(i))) {
      if (!done[before]) kept[i] = false;
    }
  }
  return kept;
}

// Instances of a mapped stage that succeeded stay, when the list cannot have changed.
bool keeps(const RunState& run, const std::vector<bool>& kept, const StageInstance& s) {
  if (kept[s.key.stage]) return true;
  if (!run.workflow->mapped(s.key.stage) || s.state != v1::STAGE_STATE_SUCCEEDED || s.surplus)
    return false;
  for (StageIndex before : run.workflow->earlier(s.key.stage)) {
    if (!kept[before]) return false;
  }
  return true;
}

StageInstance start_line(const StageInstance& old, uint32_t generation) {
  StageInstance fresh;
  fresh.key = old.key;
  fresh.generation = generation;
  fresh.attempts_total = old.attempts_total;
  fresh.epoch = old.epoch;
  fresh.last_ended_counter = old.last_ended_counter;
  fresh.saved_at = old.saved_at;
  const uint64_t late = old.rarely().last_late_counter;
  if (late != 0) fresh.rare.make().last_late_counter = late;
  return fresh;
}

void reset_stages(Step& step, bool from_failed) {
  RunState& run = step.run;
  const std::vector<bool> kept =
      from_failed ? kept_stages(run) : std::vector<bool>(run.workflow->size(), false);
  std::vector<StageInstance> next;
  for (const StageInstance& s : step.all_stages()) {
    if (from_failed && keeps(run, kept, s)) {
      next.push_back(s);
      continue;
    }
    bool list_stays = from_failed && s.expanded && !s.surplus;
    for (StageIndex before : run.workflow->earlier(s.key.stage))
      list_stays = list_stays && kept[before];
    if (!list_stays && s.key.map_index != 0) continue;
    next.push_back(start_line(s, run.n.generation));
    if (!list_stays) continue;
    next.back().expanded = true;
    next.back().item = s.item;
  }
  step.all_stages() = std::move(next);
}

}  // namespace

void end_it(Step& step, v1::RunState outcome, const std::string& by, const std::string& reason) {
  RunState& run = step.run;
  const v1::RunState phase = run.n.phase;
  if (phase == v1::RUN_STATE_NEEDS_HUMAN) return tear_down_again(step);
  if (run.n.paused) thaw(step);
  if (phase == v1::RUN_STATE_STOPPING) return;
  const bool leftover = phase == v1::RUN_STATE_SUCCEEDED && outcome == v1::RUN_STATE_STOPPED &&
                        anything_to_destroy(run);
  const bool give_up = phase == v1::RUN_STATE_FAILED && outcome == v1::RUN_STATE_STOPPED;
  if (is_ended(phase) && !leftover && !give_up) return;
  step.rare().ended_by = by;
  step.rare().end_reason = reason;
  if (give_up)
    return end_run(step, outcome);  // it was torn down when it failed; its secrets go now
  begin_teardown(step, outcome);
}

void on_cancel(Step& step, const v1::CancelRequested& e) {
  end_it(step, v1::RUN_STATE_CANCELLED, e.by(), e.reason());
}

void on_stop(Step& step, const v1::StopRequested& e) {
  end_it(step, v1::RUN_STATE_STOPPED, e.by(), "");
}

void on_retry(Step& step, const v1::RetryRequested& e) {
  RunState& run = step.run;
  refuse_retry(step);
  if (step.refused()) return;
  if (run.n.phase == v1::RUN_STATE_SUCCEEDED && e.from_failed()) {
    return step.refuse(ErrorCode::kConflict, run.name + " has no failed stage: it succeeded");
  }
  if (step.event.core_version() >= 2 && anything_to_destroy(run)) {
    return step.refuse(ErrorCode::kConflict,
                       run.name + " still has what it made, which a retry would forget",
                       "Run `bp stop " + run.name + "` first, or fork it");
  }
  step.change();
  RunState::Numbers& n = run.n;
  n.phase = v1::RUN_STATE_QUEUED;
  ++n.generation;
  n.outcome = v1::RUN_STATE_UNSPECIFIED;
  n.rewinds_since_ready = 0;
  n.first_serving_wall_ms = 0;
  RunState::Rare& rare = step.rare();
  rare.error.drop();
  rare.survivors.clear();
  rare.ended_by.clear();
  rare.end_reason.clear();
  reset_stages(step, e.from_failed());
  const int64_t limit = run.workflow->definition().run_total_timeout_ms();
  if (limit > 0) step.arm(kRunItself, v1::TIMER_KIND_RUN_TOTAL, limit);
}

}  // namespace bp::core
