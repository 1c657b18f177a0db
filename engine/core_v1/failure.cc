// Failed attempts: backoff with jitter, final failure, cancelling.
#include <algorithm>
#include <cmath>

#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

constexpr int64_t kDelayMaxMs = 24 * 3600 * 1000;

// FNV-1a, finished by splitmix64: equal everywhere, good enough to spread retries.
uint64_t spread(const std::string& text) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3ull;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
  return h ^ (h >> 31);
}

bool is_final_code(const v1::RetryPolicy& policy, const std::string& code) {
  const auto& codes = policy.final_codes();
  return std::find(codes.begin(), codes.end(), code) != codes.end();
}

}  // namespace

int64_t retry_delay_ms(const v1::RetryPolicy& policy, const RunState& state, const StageKey& key,
                       uint32_t failures) {
  const double multiplier = policy.multiplier() > 0 ? policy.multiplier() : 1.0;
  const double ceiling =
      policy.max_delay_ms() > 0 ? double(policy.max_delay_ms()) : double(kDelayMaxMs);
  const double exponent = failures > 0 ? double(failures - 1) : 0.0;
  const double plain =
      std::min(double(policy.first_delay_ms()) * std::pow(multiplier, exponent), ceiling);
  const uint64_t h =
      spread(state.run_id + "/" + key.first + "/" + std::to_string(key.second) + "/" +
             std::to_string(state.body.generation()) + "/" + std::to_string(failures));
  const double unit = double(h >> 11) * 0x1.0p-53 * 2.0 - 1.0;  // [-1, 1)
  return std::max<int64_t>(0, int64_t(plain * (1.0 + policy.jitter() * unit)));
}

void attempt_failed(Step& step, const StageKey& key, v1::ErrorInfo error, bool retriable) {
  StageInstance& s = step.stage(key);
  const v1::RetryPolicy& policy = step.definition(key).retry();
  s.body.set_failures(s.body.failures() + 1);
  const uint32_t allowed = std::max<uint32_t>(1, policy.max_attempts());
  if (!retriable || is_final_code(policy, error.code()) || s.body.failures() >= allowed) {
    fail_for_good(step, key, std::move(error));
    return;
  }
  *s.body.mutable_error() = std::move(error);
  step.set_state(key, v1::STAGE_STATE_BACKOFF);
  step.arm(key, v1::TIMER_KIND_RETRY, retry_delay_ms(policy, step.run, key, s.body.failures()));
}

void fail_for_good(Step& step, const StageKey& key, v1::ErrorInfo error) {
  StageInstance& s = step.stage(key);
  if (s.body.mode() == v1::ATTEMPT_MODE_DESTROY) {
    destroy_gave_up(step, key, std::move(error), {});
    return;
  }
  *s.body.mutable_error() = error;
  step.disarm_all(key);
  step.set_state(key, v1::STAGE_STATE_FAILED);
  if (step.run.state == v1::RUN_STATE_STOPPING) return halt_stage(step, key);
  *step.run.body.mutable_error() = std::move(error);
  begin_teardown(step, v1::RUN_STATE_FAILED);
}

void cancel_attempt(Step& step, const StageKey& key, v1::AfterCancel after,
                    const std::string& reason, int64_t grace_ms) {
  StageInstance& s = step.stage(key);
  BP_CHECK(has_live_attempt(s));
  const bool told = s.state == v1::STAGE_STATE_CANCELLING;
  s.body.set_after_cancel(after);
  step.set_state(key, v1::STAGE_STATE_CANCELLING);
  if (told) return;
  if (after == v1::AFTER_CANCEL_RETRY) {
    step.disarm_attempt(key);
  } else {
    step.disarm_all(key);
  }
  step.arm(key, v1::TIMER_KIND_CANCEL, grace_ms);
  step.act(CancelAttempt{current_attempt(step.run, key), reason, step.event.boot_ms() + grace_ms,
                         grace_ms});
}

}  // namespace bp::core_v1
