#include "engine/core/core.h"

#include <algorithm>

#include "engine/core/step.h"

namespace bp::core {
namespace {

void on_attempt_event(Step& step, const v1::Event& event) {
  switch (event.what_case()) {
    case v1::Event::kDispatched:
      return on_dispatched(step, event.dispatched());
    case v1::Event::kHostStarted:
      return on_host_started(step, event.host_started());
    case v1::Event::kCheckpointed:
      return on_checkpointed(step, event.checkpointed());
    case v1::Event::kReady:
      return on_ready(step, event.ready());
    case v1::Event::kEnded:
      return on_ended(step, event.ended());
    case v1::Event::kLost:
      return on_lost(step, event.lost());
    case v1::Event::kTimerFired:
      return on_timer(step, event.timer_fired());
    default:
      return on_ended_was_late(step, event.ended_was_late());
  }
}

void on_request(Step& step, const v1::Event& event) {
  switch (event.what_case()) {
    case v1::Event::kCancelRequested:
      return on_cancel(step, event.cancel_requested());
    case v1::Event::kStopRequested:
      return on_stop(step, event.stop_requested());
    case v1::Event::kRetryRequested:
      return on_retry(step, event.retry_requested());
    case v1::Event::kPauseRequested:
      return on_pause(step, event.pause_requested());
    case v1::Event::kResumeRequested:
      return on_resume(step, event.resume_requested());
    case v1::Event::kSignalReceived:
      return on_signal(step, event.signal_received());
    case v1::Event::kRunChanged:
      return on_changed(step, event.run_changed());
    case v1::Event::kRunMigrated:
      return on_migrated(step, event.run_migrated());
    case v1::Event::kHandleLent:
      return on_handle_lent(step, event.handle_lent());
    case v1::Event::kHandleReturned:
      return on_handle_returned(step, event.handle_returned());
    default:
      step.refuse(ErrorCode::kProtocol, "an event of an unknown kind");
  }
}

// A command that the run remembers is a repetition.
bool is_repeated(Step& step) {
  const std::string& key = step.event.request_key();
  if (key.empty()) return false;
  const auto& known = step.run.rarely().request_keys;
  return std::find(known.begin(), known.end(), boot_hash(key)) != known.end();
}

void remember_request(Step& step) {
  const std::string& key = step.event.request_key();
  if (key.empty()) return;
  auto& known = step.rare().request_keys;
  if (known.size() >= kRequestKeysMax) known.erase(known.begin());
  known.push_back(boot_hash(key));
}

void dispatch(Step& step) {
  const v1::Event& event = step.event;
  const bool begun = !step.run.run_id.empty();
  const auto what = event.what_case();
  if (what == v1::Event::kSubmitted) return on_submitted(step, event.submitted());
  if (!begun) return step.refuse(ErrorCode::kNotFound, "the event belongs to no run");
  if (what == v1::Event::kDaemonStarted) return on_daemon_started(step, event.daemon_started());
  if (what == v1::Event::kRunQuarantined) return on_quarantined(step, event.run_quarantined());
  if (what == v1::Event::kRunReleased) return on_released(step, event.run_released());
  if (step.run.n.quarantined) {
    return step.refuse(ErrorCode::kConflict, step.run.name + " is in quarantine",
                       "See `bp show " + step.run.name + "`, then release it");
  }
  const bool of_attempt = (what >= v1::Event::kDispatched && what <= v1::Event::kTimerFired) ||
                          what == v1::Event::kEndedWasLate;
  if (of_attempt) return on_attempt_event(step, event);
  if (is_repeated(step)) return;
  on_request(step, event);
  if (step.out.changed) remember_request(step);
}

}  // namespace

Outcome apply(RunState& state, v1::Event&& event, Workflows& workflows) {
  Step step(state, event, workflows);
  try {
    dispatch(step);
    if (step.out.changed && !step.run.n.quarantined) schedule(step);
    return step.finish();
  } catch (...) {
    step.undo();
    throw;
  }
}

Outcome apply(RunState& state, const v1::Event& event, Workflows& workflows) {
  return apply(state, v1::Event(event), workflows);
}

std::string encode_event(const v1::Event& event) { return serialize(event); }

std::string effect_key(const RunState& state, StageKey key) {
  const StageInstance* s = state.find(key);
  CORE_CHECK(s != nullptr);
  return state.run_id + "/" + state.stage_name(key) + "/" + std::to_string(key.map_index) + "/" +
         std::to_string(s->generation);
}

Attempt current_attempt(const RunState& state, StageKey key) {
  const StageInstance* s = state.find(key);
  CORE_CHECK(s != nullptr);
  Attempt a;
  a.run_id = state.run_id;
  a.run_number = state.run_number;
  a.stage = state.stage_name(key);
  a.key = key;
  a.map_index = key.map_index;
  a.attempt = s->attempt;
  a.epoch = to_wire(s->epoch);
  a.shared = state.workflow->shared(key.stage) && !s->in_own && !s->host;
  if (s->host) {
    a.host_id = s->host.get()->id;
    a.host = s->host.get()->process;
  }
  return a;
}

v1::Event timer_event(const RunState& state, const Timer& timer) {
  v1::Event event;
  auto* e = event.mutable_timer_fired();
  e->set_stage(state.stage_name(timer.key));
  e->set_map_index(timer.key.map_index);
  e->mutable_epoch()->set_incarnation(state.n.incarnation);
  e->mutable_epoch()->set_counter(timer.epoch_counter);
  e->set_kind(timer.kind);
  return event;
}

// FNV-1a, finished by splitmix64.
uint64_t boot_hash(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
  return h ^ (h >> 31);
}

}  // namespace bp::core
