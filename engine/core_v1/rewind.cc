// What an earlier stage made is gone: that stage and everything after it runs again,
// level-triggered, under the same effect keys. Handles and outputs stay until they are overwritten.
#include <algorithm>

#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

int64_t rewind_delay_ms(uint32_t in_a_row) {
  int64_t delay = kRewindDelayMs;
  for (uint32_t i = 1; i < in_a_row && delay < kRewindDelayMaxMs; ++i) delay *= 2;
  return std::min(delay, kRewindDelayMaxMs);
}

// Back to the start line; a living attempt is first cancelled to proof of death.
void take_back(Step& step, const StageKey& key, const std::string& reason) {
  StageInstance& s = step.stage(key);
  if (!has_live_attempt(s)) {
    step.disarm_all(key);
    step.set_state(key, v1::STAGE_STATE_PENDING);
    return;
  }
  const bool fails_anyway =
      s.state == v1::STAGE_STATE_CANCELLING && s.body.after_cancel() == v1::AFTER_CANCEL_FAIL;
  if (!fails_anyway) cancel_attempt(step, key, v1::AFTER_CANCEL_REWIND, reason, kCancelGraceMs);
}

}  // namespace

void rewind(Step& step, const StageKey& reporter, const v1::AttemptEnded& ended) {
  const std::string& target = ended.rewind_to_stage();
  std::set<std::string> affected = successors(step.run.body.workflow(), target);
  affected.insert(target);
  if (!stage_definition(step.run, target) || !affected.count(reporter.first)) {
    fail_for_good(
        step, reporter,
        make_error(ErrorCode::kInternal, "stage " + reporter.first + " asked to go back to \"" +
                                             target + "\", which does not come before it"));
    return;
  }
  v1::RunBody& b = step.run.body;
  b.set_rewinds_total(b.rewinds_total() + 1);
  b.set_rewinds_since_ready(b.rewinds_since_ready() + 1);
  const std::string why = ended.error().message();
  if (b.rewinds_since_ready() > kRewindsMax) {
    fail_for_good(step, reporter,
                  make_error(ErrorCode::kUnavailable,
                             "went back to an earlier stage " + std::to_string(kRewindsMax) +
                                 " times without becoming ready in between; last reason: " + why));
    return;
  }
  *step.stage(reporter).body.mutable_error() = ended.error();
  for (const StageKey& key : ordered_keys(step.run)) {
    if (!affected.count(key.first)) continue;
    take_back(step, key, "stage " + target + " must run again: " + why);
    if (key.first == target && step.stage(key).state == v1::STAGE_STATE_PENDING) {
      step.set_state(key, v1::STAGE_STATE_BACKOFF);
      step.arm(key, v1::TIMER_KIND_RETRY, rewind_delay_ms(b.rewinds_since_ready()));
    }
  }
}

}  // namespace bp::core_v1
