#include "engine/core_v1/step.h"

namespace bp::core_v1 {

void on_submitted(Step& step, const v1::RunSubmitted& e) {
  RunState& run = step.run;
  if (!run.run_id.empty()) return;  // a repetition
  if (e.run_id().empty() || e.name().empty()) {
    step.out.accepted = Error{ErrorCode::kInvalidArgument, "a run needs an id and a name", {}};
    return;
  }
  if (Status ok = check_workflow(e.workflow()); !ok) {
    step.out.accepted = std::move(ok);
    return;
  }
  run.run_id = e.run_id();
  run.run_number = e.run_number();
  run.name = e.name();
  run.live = true;
  run.state = v1::RUN_STATE_QUEUED;
  run.created_wall_ms = step.event.wall_ms();
  run.idempotency_key = e.idempotency_key();
  *run.body.mutable_workflow() = e.workflow();
  *run.body.mutable_inputs() = e.inputs();
  *run.body.mutable_options() = e.options();
  run.body.set_submitter(e.submitter());
  run.body.set_incarnation(e.incarnation());
  run.body.set_boot_id(e.boot_id());
  run.body.set_generation(1);
  for (const auto& d : e.workflow().stages()) {
    const StageKey key{d.name(), 0};
    StageInstance& s = run.stages[key];
    s.body.set_mode(v1::ATTEMPT_MODE_APPLY);
    s.body.set_generation(1);
    step.touch(key);
  }
}

}  // namespace bp::core_v1
