#include "engine/core_v1/core.h"

#include "engine/core_v1/step.h"

namespace bp::core_v1 {

Outcome apply(RunState& state, const v1::Event& event) {
  Step step(state, event);
  if (state.run_id.empty() && event.what_case() != v1::Event::kSubmitted) {
    step.out.accepted = Error{ErrorCode::kNotFound, "the event belongs to no run", {}};
    return std::move(step.out);
  }
  switch (event.what_case()) {
    case v1::Event::kSubmitted:
      on_submitted(step, event.submitted());
      break;
    case v1::Event::kDispatched:
      on_dispatched(step, event.dispatched());
      break;
    case v1::Event::kHostStarted:
      on_host_started(step, event.host_started());
      break;
    case v1::Event::kCheckpointed:
      on_checkpointed(step, event.checkpointed());
      break;
    case v1::Event::kReady:
      on_ready(step, event.ready());
      break;
    case v1::Event::kEnded:
      on_ended(step, event.ended());
      break;
    case v1::Event::kLost:
      on_lost(step, event.lost());
      break;
    case v1::Event::kTimerFired:
      on_timer(step, event.timer_fired());
      break;
    case v1::Event::kCancelRequested:
      on_cancel(step, event.cancel_requested());
      break;
    case v1::Event::kStopRequested:
      on_stop(step, event.stop_requested());
      break;
    case v1::Event::kRetryRequested:
      on_retry(step, event.retry_requested());
      break;
    case v1::Event::kDaemonStarted:
      on_daemon_started(step, event.daemon_started());
      break;
    case v1::Event::kEndedWasLate:
      on_ended_was_late(step, event.ended_was_late());
      break;
    default:
      step.out.accepted = Error{ErrorCode::kProtocol, "an event of an unknown kind", {}};
      break;
  }
  if (step.out.changed) schedule(step);
  return step.finish();
}

bool is_ended(v1::RunState state) {
  return state == v1::RUN_STATE_SUCCEEDED || state == v1::RUN_STATE_STOPPED ||
         state == v1::RUN_STATE_CANCELLED || state == v1::RUN_STATE_FAILED;
}

bool has_live_attempt(const StageInstance& stage) {
  return stage.state == v1::STAGE_STATE_RUNNING || stage.state == v1::STAGE_STATE_READY ||
         stage.state == v1::STAGE_STATE_CANCELLING;
}

Attempt current_attempt(const RunState& state, const StageKey& key) {
  auto it = state.stages.find(key);
  BP_CHECK(it != state.stages.end());
  const v1::StageBody& b = it->second.body;
  return {state.run_id, key.first, key.second, b.attempt(), b.epoch(), b.host_id(), b.host()};
}

const v1::StageDefinition* stage_definition(const RunState& state, const std::string& stage) {
  for (const auto& d : state.body.workflow().stages()) {
    if (d.name() == stage) return &d;
  }
  return nullptr;
}

std::string effect_key(const RunState& state, const StageKey& key) {
  return state.run_id + "/" + key.first + "/" + std::to_string(key.second) + "/" +
         std::to_string(state.body.generation());
}

v1::RunAttempt run_attempt_message(const RunState& state, const StageKey& key) {
  auto it = state.stages.find(key);
  BP_CHECK(it != state.stages.end());
  const v1::StageBody& b = it->second.body;
  const v1::StageDefinition* d = stage_definition(state, key.first);
  BP_CHECK(d != nullptr);
  v1::RunAttempt m;
  m.set_mode(b.mode());
  m.set_effect_key(effect_key(state, key));
  m.set_deployment_name(state.name);
  m.set_run_number(state.run_number);
  *m.mutable_inputs() = state.body.inputs();
  for (const auto& [other, instance] : state.stages) {
    if (other == key) continue;
    for (const auto& [name, bytes] : instance.body.outputs()) {
      std::string full = other.first + "." + name;
      if (other.second != 0) full += "." + std::to_string(other.second);
      (*m.mutable_inputs())[full] = bytes;
    }
  }
  m.set_handle(b.handle());
  m.set_checkpoint(b.checkpoint());
  m.set_run_timeout_ms(d->run_timeout_ms());
  *m.mutable_options() = state.body.options();
  for (const auto& [name, value] : d->options()) (*m.mutable_options())[name] = value;
  return m;
}

}  // namespace bp::core_v1
