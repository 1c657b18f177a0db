// One sentence for people: who must act next.
#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

std::string attempt_name(const StageKey& key, const StageInstance& s) {
  const bool destroy = s.body.mode() == v1::ATTEMPT_MODE_DESTROY;
  return (destroy ? "the teardown of " : "") + key.first + " (attempt " +
         std::to_string(s.body.attempt()) + ")";
}

std::string host_name(const StageInstance& s) {
  return s.body.has_host() ? "stage host " + std::to_string(s.body.host().pid())
                           : "a stage host that is starting";
}

std::string about(const StageKey& key, const StageInstance& s) {
  switch (s.state) {
    case v1::STAGE_STATE_CANCELLING:
      return host_name(s) + " must end " + attempt_name(key, s) +
             "; it is killed when its grace is over";
    case v1::STAGE_STATE_RUNNING:
      return host_name(s) + " must finish " + attempt_name(key, s);
    case v1::STAGE_STATE_QUEUED:
      return "the daemon must start a stage host for " + attempt_name(key, s);
    case v1::STAGE_STATE_BACKOFF:
      return "the timer must fire that tries " + key.first +
             " again; last time: " + s.body.error().message();
    default:
      return {};
  }
}

std::string survivors_text(const RunState& state) {
  std::string text;
  for (const std::string& s : state.body.survivors()) text += (text.empty() ? "" : "; ") + s;
  return text;
}

}  // namespace

std::string who_must_act_next(const RunState& state) {
  if (state.run_id.empty()) return "nobody: there is no such run";
  if (is_ended(state.state)) {
    const v1::RunBody& b = state.body;
    if (b.ended_by().empty()) return "nobody: the run has ended";
    return "nobody: ended by " + b.ended_by() +
           (b.end_reason().empty() ? "" : ": " + b.end_reason());
  }
  if (state.state == v1::RUN_STATE_NEEDS_HUMAN) {
    return "a person must confirm that these are gone, then `bp stop " + state.name +
           "`: " + survivors_text(state);
  }
  if (state.state == v1::RUN_STATE_SERVING) return "applications: the endpoint serves";
  for (v1::StageState wanted : {v1::STAGE_STATE_CANCELLING, v1::STAGE_STATE_RUNNING,
                                v1::STAGE_STATE_QUEUED, v1::STAGE_STATE_BACKOFF}) {
    for (const StageKey& key : ordered_keys(state)) {
      const StageInstance& s = state.stages.at(key);
      if (s.state == wanted) return about(key, s);
    }
  }
  return "nobody: this is a defect of the core, please report it with `bp show " + state.name +
         " --json`";
}

}  // namespace bp::core_v1
