// Teardown and compensation: first every living attempt is cancelled to proof of death, then what
// was made is destroyed in reverse order. It ends in "confirmed gone" or in NEEDS_HUMAN with
// survivors.
#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

bool needs_destroy(const Step& step, const StageKey& key, const StageInstance& s) {
  return step.definition(key).has_destroy() &&
         (s.body.dispatched_once() || !s.body.handle().empty());
}

bool destroying(const StageInstance& s) { return s.body.mode() == v1::ATTEMPT_MODE_DESTROY; }

bool destroy_over(const StageInstance& s) {
  return !destroying(s) || s.state == v1::STAGE_STATE_DESTROYED ||
         s.state == v1::STAGE_STATE_FAILED;
}

bool applying_lives(const RunState& run) {
  for (const auto& [key, s] : run.stages) {
    if (!destroying(s) && has_live_attempt(s)) return true;
  }
  return false;
}

bool later_ones_over(const RunState& run, const std::string& stage) {
  const std::set<std::string> later = successors(run.body.workflow(), stage);
  for (const auto& [key, s] : run.stages) {
    if (later.count(key.first) && !destroy_over(s)) return false;
  }
  return true;
}

// True when every stage's teardown is over.
bool destroy_what_may_go(Step& step) {
  bool all_over = true;
  const std::vector<StageKey> keys = ordered_keys(step.run);
  for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
    const StageInstance& s = step.stage(*key);
    if (destroy_over(s)) continue;
    all_over = false;
    if (s.state == v1::STAGE_STATE_PENDING && later_ones_over(step.run, key->first))
      queue_attempt(step, *key);
  }
  return all_over;
}

void collect_survivors(Step& step) {
  step.run.body.clear_survivors();
  for (const StageKey& key : ordered_keys(step.run)) {
    for (const std::string& text : step.stage(key).body.survivors())
      step.run.body.add_survivors(text);
  }
}

}  // namespace

void halt_stage(Step& step, const StageKey& key) {
  StageInstance& s = step.stage(key);
  step.disarm_all(key);
  if (needs_destroy(step, key, s)) {
    s.body.set_mode(v1::ATTEMPT_MODE_DESTROY);
    s.body.set_failures(0);
    s.body.set_checkpoint("");
    step.set_state(key, v1::STAGE_STATE_PENDING);
  } else if (!s.body.dispatched_once()) {
    step.set_state(key, v1::STAGE_STATE_SKIPPED);
  } else if (s.state != v1::STAGE_STATE_SUCCEEDED && s.state != v1::STAGE_STATE_FAILED) {
    if (!s.body.has_error()) {
      *s.body.mutable_error() =
          make_error(ErrorCode::kCancelled, "stage " + key.first + " was cancelled");
    }
    step.set_state(key, v1::STAGE_STATE_FAILED);
  }
}

void begin_teardown(Step& step, v1::RunState outcome) {
  step.run.state = v1::RUN_STATE_STOPPING;
  step.run.body.set_outcome(outcome);
  step.run.body.set_teardown_needs_human(false);
  step.change();
  for (const StageKey& key : ordered_keys(step.run)) {
    if (has_live_attempt(step.stage(key))) {
      cancel_attempt(step, key, v1::AFTER_CANCEL_TEARDOWN, "the deployment is ending",
                     kCancelGraceMs);
    } else {
      halt_stage(step, key);
    }
  }
}

void advance_teardown(Step& step) {
  if (applying_lives(step.run)) return;
  if (!destroy_what_may_go(step)) return;
  if (!step.run.body.teardown_needs_human()) {
    end_run(step, step.run.body.outcome());
    return;
  }
  collect_survivors(step);
  step.run.state = v1::RUN_STATE_NEEDS_HUMAN;
  step.change();
}

void destroy_gave_up(Step& step, const StageKey& key, v1::ErrorInfo error,
                     std::vector<std::string> survivors) {
  StageInstance& s = step.stage(key);
  step.disarm_all(key);
  if (survivors.empty()) {
    survivors.push_back("whatever stage " + key.first + " made (" + effect_key(step.run, key) +
                        "): " + error.message());
  }
  s.body.clear_survivors();
  for (std::string& text : survivors) s.body.add_survivors(std::move(text));
  *s.body.mutable_error() = std::move(error);
  step.run.body.set_teardown_needs_human(true);
  step.set_state(key, v1::STAGE_STATE_FAILED);
}

void end_run(Step& step, v1::RunState state) {
  step.run.state = state;
  step.run.live = false;
  for (const StageKey& key : ordered_keys(step.run)) step.disarm_all(key);
  // Somebody ended it: nobody needs its tokens and keys any more. A failed run keeps them for its
  // retry.
  if (state == v1::RUN_STATE_STOPPED || state == v1::RUN_STATE_CANCELLED)
    step.out.batch.drop_secrets_of_runs.push_back(step.run.run_id);
  step.change();
  step.act(RunEnded{step.run.run_id, state});
}

}  // namespace bp::core_v1
