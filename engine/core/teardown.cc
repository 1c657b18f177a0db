// Teardown and compensation: first every living attempt is cancelled to proof of death, then what
// was made is destroyed, a stage only when everything after it is gone (reverse order of the
// graph). What is lent waits for its borrowers. It ends in "confirmed gone" or in NEEDS_HUMAN with
// survivors.
#include "engine/core/step.h"

namespace bp::core {
namespace {

bool destroying(const StageInstance& s) { return s.mode == v1::ATTEMPT_MODE_DESTROY; }

bool applying_lives(const RunState& run) {
  for (const StageInstance& s : run.stages) {
    if (!destroying(s) && has_live_attempt(s)) return true;
  }
  return false;
}

bool later_ones_over(const RunState& run, const Summaries& all, StageIndex stage) {
  for (StageIndex later : run.workflow->later(stage)) {
    if (!all[later].destroy_over) return false;
  }
  return true;
}

// True when every stage's teardown is over.
bool destroy_what_may_go(Step& step) {
  const Summaries all = summarize(step.run);
  bool all_over = true;
  for (size_t i = step.run.stages.size(); i-- > 0;) {
    const StageInstance& s = step.run.stages[i];
    if (destroy_over(s)) continue;
    all_over = false;
    if (s.state != v1::STAGE_STATE_PENDING || step.run.n.paused) continue;
    if (!s.rarely().borrowers.empty()) continue;
    if (later_ones_over(step.run, all, s.key.stage)) queue_attempt(step, s.key);
  }
  return all_over;
}

void collect_survivors(Step& step) {
  std::vector<std::string> all;
  for (const StageInstance& s : step.run.stages) {
    for (const std::string& text : s.rarely().survivors) all.push_back(text);
  }
  step.rare().survivors = std::move(all);
}

void check_borrowers(Step& step, const StageInstance& s) {
  for (const std::string& borrower : s.rarely().borrowers) {
    step.act(CheckBorrower{step.run.run_id, step.run.stage_name(s.key), s.key.map_index, borrower});
  }
}

}  // namespace

bool needs_destroy(const RunState& run, const StageInstance& s) {
  return run.workflow->has_destroy(s.key.stage) && s.rarely().lender.empty() &&
         s.state != v1::STAGE_STATE_DESTROYED &&
         (s.dispatched_once || !s.handle().empty());
}

bool destroy_over(const StageInstance& s) {
  return !destroying(s) || s.state == v1::STAGE_STATE_DESTROYED ||
         s.state == v1::STAGE_STATE_FAILED;
}

void halt_stage(Step& step, StageKey key) {
  StageInstance& s = step.stage(key);
  step.disarm_all(key);
  if (needs_destroy(step.run, s)) {
    s.mode = v1::ATTEMPT_MODE_DESTROY;
    s.failures = 0;
    if (!s.checkpoint().empty()) step.rare(key).checkpoint.clear();
    s.state = v1::STAGE_STATE_PENDING;
  } else if (!s.dispatched_once) {
    if (s.state != v1::STAGE_STATE_SUCCEEDED) s.state = v1::STAGE_STATE_SKIPPED;
  } else if (s.state != v1::STAGE_STATE_SUCCEEDED && s.state != v1::STAGE_STATE_FAILED) {
    if (!s.failure) {
      s.failure.make() =
          make_error(ErrorCode::kCancelled, "stage " + step.run.stage_name(key) + " was cancelled");
    }
    s.state = v1::STAGE_STATE_FAILED;
  }
}

void begin_teardown(Step& step, v1::RunState outcome) {
  step.change();
  RunState::Numbers& n = step.run.n;
  n.phase = v1::RUN_STATE_STOPPING;
  n.outcome = outcome;
  n.teardown_needs_human = false;
  step.disarm(kRunItself, v1::TIMER_KIND_SLEEP);
  step.disarm(kRunItself, v1::TIMER_KIND_RUN_TOTAL);
  for (size_t i = 0; i < step.run.stages.size(); ++i) {
    const StageInstance& s = step.run.stages[i];
    if (has_live_attempt(s)) {
      cancel_attempt(step, s.key, v1::AFTER_CANCEL_TEARDOWN, "the deployment is ending",
                     kCancelGraceMs);
    } else {
      halt_stage(step, s.key);
    }
    check_borrowers(step, s);
  }
}

void advance_teardown(Step& step) {
  if (applying_lives(step.run)) return;
  if (!destroy_what_may_go(step)) return;
  if (!step.run.n.teardown_needs_human) {
    end_run(step, step.run.n.outcome);
    return;
  }
  collect_survivors(step);
  step.run.n.phase = v1::RUN_STATE_NEEDS_HUMAN;
  step.run.n.paused = false;
}

void destroy_gave_up(Step& step, StageKey key, v1::ErrorInfo error,
                     std::vector<std::string> survivors) {
  StageInstance& s = step.stage(key);
  step.disarm_all(key);
  if (survivors.empty()) {
    survivors.push_back("whatever stage " + step.run.stage_name(key) + " made (" +
                        effect_key(step.run, key) + "): " + error.message());
  }
  step.rare(key).survivors = std::move(survivors);
  s.failure.make() = std::move(error);
  step.run.n.teardown_needs_human = true;
  s.state = v1::STAGE_STATE_FAILED;
}

void end_run(Step& step, v1::RunState state) {
  step.change();
  step.run.n.phase = state;
  step.run.n.paused = false;
  step.disarm_everything();
  for (size_t i = 0; i < step.run.stages.size(); ++i) {
    const StageInstance& s = step.run.stages[i];
    if (s.rarely().lender.empty()) continue;
    return_handle(step, s.key);
    if (state == v1::RUN_STATE_SUCCEEDED) continue;
    step.set_state(s.key, v1::STAGE_STATE_SKIPPED);  // a retry has to make its own
    step.stage(s.key).outputs = nullptr;
  }
  // Somebody ended it: nobody needs its tokens and keys any more. A failed run keeps them for its
  // retry.
  if (state == v1::RUN_STATE_STOPPED || state == v1::RUN_STATE_CANCELLED)
    step.out.drop_secrets = true;
}

}  // namespace bp::core
