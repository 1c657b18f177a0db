#include <algorithm>

#include "engine/base/limits.h"
#include "engine/core/step.h"

namespace bp::core {
namespace {

template <class Map>
auto pairs_of(const Map& map) {
  std::vector<std::pair<typename Map::key_type, typename Map::mapped_type>> all(map.begin(),
                                                                              map.end());
  std::sort(all.begin(), all.end());
  return all;
}

Result<Workflow::Ptr> workflow_of(Step& step, const v1::RunSubmitted& e) {
  if (!e.workflow_hash().empty()) return step.workflows.find(e.workflow_hash());
  return step.workflows.add(e.workflow(), /*check=*/step.event.core_version() >= 2);
}

Status check_submitted(const v1::RunSubmitted& e, const Workflow& w) {
  for (const std::string& name : w.definition().required_inputs()) {
    if (!e.inputs().contains(name) && !e.payloads().contains(name)) {
      return Error{ErrorCode::kInvalidArgument,
                   "workflow " + w.name() + " needs the input \"" + name + "\"",
                   {}};
    }
  }
  if (e.start_after_ms() < 0)
    return Error{ErrorCode::kInvalidArgument, "start_after_ms is negative", {}};
  for (const auto& [name, value] : e.labels()) {
    if (name.empty() || name.size() > limits::kNameBytes || value.size() > limits::kNameBytes) {
      return Error{ErrorCode::kInvalidArgument,
                   "a label needs a name of 1 to 256 bytes and a value of at most 256",
                   {}};
    }
  }
  if (e.labels().size() > 64)
    return Error{ErrorCode::kInvalidArgument, "a run has at most 64 labels", {}};
  return check_fork(w, e.fork());
}

std::shared_ptr<const Submitted> submitted_of(const v1::RunSubmitted& e) {
  auto s = std::make_shared<Submitted>();
  s->idempotency_key = e.idempotency_key();
  s->submitter = e.submitter();
  s->schedule = e.schedule();
  if (ValuesPtr inputs = to_values(e.inputs(), e.payloads())) s->inputs = *inputs;
  s->options = pairs_of(e.options());
  s->limit_keys.assign(e.limit_keys().begin(), e.limit_keys().end());
  s->forked_of = e.fork().run_id();
  s->forked_from_stage = e.fork().from_stage();
  return s;
}

void begin_numbers(RunState::Numbers& n, const v1::Event& event) {
  const v1::RunSubmitted& e = event.submitted();
  n.phase = v1::RUN_STATE_QUEUED;
  n.priority = e.priority();
  n.incarnation = e.incarnation();
  n.boot = boot_hash(e.boot_id());
  n.created_wall_ms = event.wall_ms();
}

}  // namespace

void on_submitted(Step& step, const v1::RunSubmitted& e) {
  RunState& run = step.run;
  if (!run.run_id.empty()) return;  // a repetition
  if (e.run_id().empty() || e.name().empty())
    return step.refuse(ErrorCode::kInvalidArgument, "a run needs an id and a name");
  auto workflow = workflow_of(step, e);
  if (!workflow.ok()) {
    step.out.accepted = std::move(workflow).error();
    return;
  }
  if (Status ok = check_submitted(e, **workflow); !ok) {
    step.out.accepted = std::move(ok);
    return;
  }
  run.run_id = e.run_id();
  run.run_number = e.run_number();
  run.name = e.name();
  run.workflow = std::move(workflow).value();
  run.submitted = submitted_of(e);
  if (!e.plugin_versions().empty() || !e.plugin_hashes().empty()) {
    run.pins = step.workflows.share(Pins{pairs_of(e.plugin_versions()), pairs_of(e.plugin_hashes())});
  }
  run.labels = pairs_of(e.labels());
  begin_numbers(run.n, step.event);
  step.change();
  run.stages.resize(run.workflow->size());
  for (size_t i = 0; i < run.stages.size(); ++i) {
    run.stages[i].key.stage = static_cast<StageIndex>(i);
    run.stages[i].saved_at = run.applied;  // all new: the undo drops them
  }
  if (e.has_fork()) take_over(step, e.fork());
  const int64_t limit = run.workflow->definition().run_total_timeout_ms();
  if (limit > 0) step.arm(kRunItself, v1::TIMER_KIND_RUN_TOTAL, limit);
  if (e.start_after_ms() > 0) step.arm(kRunItself, v1::TIMER_KIND_SLEEP, e.start_after_ms());
}

}  // namespace bp::core
