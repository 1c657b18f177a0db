// What people ask for: cancel, stop, retry.
#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

bool anything_to_destroy(const Step& step) {
  for (const auto& [key, s] : step.run.stages) {
    if (step.definition(key).has_destroy() &&
        (s.body.dispatched_once() || !s.body.handle().empty()))
      return true;
  }
  return false;
}

// Teardown once more, of what could not be confirmed gone.
void tear_down_again(Step& step) {
  step.run.state = v1::RUN_STATE_STOPPING;
  step.run.body.clear_survivors();
  step.run.body.set_teardown_needs_human(false);
  for (const StageKey& key : ordered_keys(step.run)) {
    StageInstance& s = step.stage(key);
    if (s.body.mode() != v1::ATTEMPT_MODE_DESTROY || s.state != v1::STAGE_STATE_FAILED) continue;
    s.body.set_failures(0);
    s.body.clear_survivors();
    step.set_state(key, v1::STAGE_STATE_PENDING);
  }
  step.change();
}

void end_it(Step& step, v1::RunState outcome, const std::string& by, const std::string& reason) {
  RunState& run = step.run;
  if (run.state == v1::RUN_STATE_NEEDS_HUMAN) return tear_down_again(step);
  if (run.state == v1::RUN_STATE_STOPPING) return;
  const bool leftover = run.state == v1::RUN_STATE_SUCCEEDED && outcome == v1::RUN_STATE_STOPPED &&
                        anything_to_destroy(step);
  const bool give_up = run.state == v1::RUN_STATE_FAILED && outcome == v1::RUN_STATE_STOPPED;
  if (is_ended(run.state) && !leftover && !give_up) return;
  run.live = true;
  run.body.set_ended_by(by);
  run.body.set_end_reason(reason);
  if (give_up)
    return end_run(step, outcome);  // it was torn down when it failed; its secrets go now
  begin_teardown(step, outcome);
}

}  // namespace

void on_cancel(Step& step, const v1::CancelRequested& e) {
  end_it(step, v1::RUN_STATE_CANCELLED, e.by(), e.reason());
}

void on_stop(Step& step, const v1::StopRequested& e) {
  end_it(step, v1::RUN_STATE_STOPPED, e.by(), "");
}

void on_retry(Step& step, const v1::RetryRequested& e) {
  RunState& run = step.run;
  if (!is_ended(run.state)) {
    const bool human = run.state == v1::RUN_STATE_NEEDS_HUMAN;
    step.out.accepted =
        Error{ErrorCode::kConflict,
              run.name + (human ? " still has survivors of its last teardown" : " has not ended"),
              human ? "Run `bp stop " + run.name + "` until they are confirmed gone, then retry"
                    : "Wait, or `bp stop " + run.name + "` first"};
    return;
  }
  if (run.state == v1::RUN_STATE_STOPPED || run.state == v1::RUN_STATE_CANCELLED) {
    step.out.accepted = Error{ErrorCode::kConflict,
                              run.name + " was ended on request, and its secrets were deleted",
                              "Submit its recipe again"};
    return;
  }
  v1::RunBody& b = run.body;
  run.live = true;
  run.state = v1::RUN_STATE_QUEUED;
  b.set_generation(b.generation() + 1);
  b.set_outcome(v1::RUN_STATE_UNSPECIFIED);
  b.clear_error();
  b.clear_survivors();
  b.clear_ended_by();
  b.clear_end_reason();
  b.set_rewinds_since_ready(0);
  b.set_first_serving_wall_ms(0);
  for (auto& [key, s] : run.stages) {
    v1::StageBody fresh;
    fresh.set_mode(v1::ATTEMPT_MODE_APPLY);
    fresh.set_generation(b.generation());
    fresh.set_attempts_total(s.body.attempts_total());
    *fresh.mutable_epoch() = s.body.epoch();
    fresh.set_last_late_counter(s.body.last_late_counter());
    fresh.set_last_ended_counter(s.body.last_ended_counter());
    s.body = std::move(fresh);
    step.disarm_all(key);
    step.set_state(key, v1::STAGE_STATE_PENDING);
  }
}

}  // namespace bp::core_v1
