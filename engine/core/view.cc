#include "engine/core/view.h"

#include <algorithm>

#include "engine/core/step.h"

namespace bp::core {
namespace {

bool resting(v1::StageState state) {
  return state == v1::STAGE_STATE_SUCCEEDED || state == v1::STAGE_STATE_DESTROYED ||
         state == v1::STAGE_STATE_SKIPPED;
}

v1::StageView stage_view(const RunState& state, const StageKey& key, int64_t boot_ms) {
  const StageInstance& s = state.stages.at(key);
  v1::StageView v;
  v.set_name(key.first);
  v.set_state(s.state);
  v.set_attempt(s.body.attempt());
  v.set_attempts_total(s.body.attempts_total());
  v.set_generation(s.body.generation());
  *v.mutable_epoch() = s.body.epoch();
  v.set_started_wall_ms(s.body.started_wall_ms());
  v.set_ended_wall_ms(s.body.ended_wall_ms());
  if (s.body.has_error()) *v.mutable_error() = s.body.error();
  if (s.body.has_host()) *v.mutable_host() = s.body.host();
  auto timer = state.timers.find({key, v1::TIMER_KIND_RETRY});
  if (timer != state.timers.end()) {
    v.set_retry_in_ms(std::max<int64_t>(0, timer->second.due_boot_ms - boot_ms));
  }
  return v;
}

}  // namespace

std::string current_stage(const RunState& state) {
  const std::vector<StageKey> keys = ordered_keys(state);
  if (state.state == v1::RUN_STATE_STOPPING || state.state == v1::RUN_STATE_NEEDS_HUMAN) {
    for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
      if (!resting(state.stages.at(*key).state)) return key->first;
    }
  } else {
    for (const StageKey& key : keys) {
      if (!resting(state.stages.at(key).state)) return key.first;
    }
  }
  return keys.empty() ? "" : keys.back().first;
}

v1::RunView run_view(const RunState& state, int64_t boot_ms) {
  v1::RunView v;
  v.set_id(state.run_id);
  v.set_name(state.name);
  v.set_state(state.state);
  v.set_current_stage(current_stage(state));
  v.mutable_epoch()->set_incarnation(state.body.incarnation());
  v.mutable_epoch()->set_counter(state.epoch_counter);
  v.set_created_wall_ms(state.created_wall_ms);
  v.set_updated_wall_ms(state.updated_wall_ms);
  v.set_serving_wall_ms(state.body.first_serving_wall_ms());
  for (const StageKey& key : ordered_keys(state)) *v.add_stages() = stage_view(state, key, boot_ms);
  if (state.body.has_error()) *v.mutable_error() = state.body.error();
  *v.mutable_survivors() = state.body.survivors();
  v.set_recoveries(state.body.rewinds_total());
  v.set_waiting_for(who_must_act_next(state));
  v.set_last_event(state.body.last_run_seq());
  return v;
}

}  // namespace bp::core
