// What an earlier stage made is gone: that stage and everything after it runs again,
// level-triggered, under the same effect keys. Handles and outputs stay until they are overwritten.
#include <algorithm>

#include "engine/core/step.h"

namespace bp::core {
namespace {

int64_t rewind_delay_ms(uint32_t in_a_row) {
  int64_t delay = kRewindDelayMs;
  for (uint32_t i = 1; i < in_a_row && delay < kRewindDelayMaxMs; ++i) delay *= 2;
  return std::min(delay, kRewindDelayMaxMs);
}

// Back to the start line; a living attempt is first cancelled to proof of death.
void take_back(Step& step, StageKey key, const std::string& reason) {
  StageInstance& s = step.stage(key);
  if (!has_live_attempt(s)) {
    step.disarm_all(key);
    s.state = v1::STAGE_STATE_PENDING;
    return;
  }
  const bool fails_anyway =
      s.state == v1::STAGE_STATE_CANCELLING && s.after_cancel == v1::AFTER_CANCEL_FAIL;
  if (!fails_anyway) cancel_attempt(step, key, v1::AFTER_CANCEL_REWIND, reason, kCancelGraceMs);
}

}  // namespace

void rewind(Step& step, StageKey reporter, const v1::AttemptEnded& ended) {
  const std::string target_name = ended.rewind_to_stage();
  const auto target = step.run.workflow->find(target_name);
  const Workflow& w = *step.run.workflow;
  if (!target || (*target != reporter.stage && !w.is_later(*target, reporter.stage))) {
    fail_for_good(
        step, reporter,
        make_error(ErrorCode::kInternal, "stage " + step.run.stage_name(reporter) +
                                             " asked to go back to \"" + target_name +
                                             "\", which does not come before it"));
    return;
  }
  RunState::Numbers& n = step.run.n;
  ++n.rewinds_total;
  ++n.rewinds_since_ready;
  step.change();
  const std::string why = ended.error().message();
  if (n.rewinds_since_ready > kRewindsMax) {
    fail_for_good(step, reporter,
                  make_error(ErrorCode::kUnavailable,
                             "went back to an earlier stage " + std::to_string(kRewindsMax) +
                                 " times without becoming ready in between; last reason: " + why));
    return;
  }
  step.stage(reporter).failure.make() = ended.error();
  for (size_t i = 0; i < step.run.stages.size(); ++i) {
    const StageKey key = step.run.stages[i].key;
    if (key.stage != *target && !w.is_later(*target, key.stage)) continue;
    if (step.run.stages[i].surplus) continue;
    // An instance that goes back to its own stage goes alone; else the list may be another one.
    const bool alone = *target == reporter.stage && key.stage == *target;
    if (alone && key != reporter) continue;
    if (!alone && w.mapped(key.stage)) step.stage(key).expanded = false;
    take_back(step, key, "stage " + target_name + " must run again: " + why);
    if (key.stage == *target && step.peek(key).state == v1::STAGE_STATE_PENDING) {
      step.set_state(key, v1::STAGE_STATE_BACKOFF);
      step.arm(key, v1::TIMER_KIND_RETRY, rewind_delay_ms(n.rewinds_since_ready));
    }
  }
}

}  // namespace bp::core
