// A run from the bytes of its snapshot. What contradicts itself is refused: see broken_invariants.
#include <algorithm>

#include "engine/core/step.h"

namespace bp::core {
namespace {

Error broken(const v1::RunSnapshot& o, const std::string& what) {
  return {ErrorCode::kJournal, "run " + o.run_id() + ": " + what, {}};
}

template <class Field>
Values values_of(const Field& in) {
  Values values;
  values.reserve(static_cast<size_t>(in.size()));
  for (const auto& v : in) values.push_back({v.name(), v.bytes(), v.is_blob()});
  return values;
}

template <class Field>
std::vector<std::pair<std::string, std::string>> labels_of(const Field& in) {
  std::vector<std::pair<std::string, std::string>> all;
  all.reserve(static_cast<size_t>(in.size()));
  for (const auto& l : in) all.emplace_back(l.name(), l.value());
  return all;
}

template <class Field>
std::vector<Signal> signals_of(const Field& in) {
  std::vector<Signal> all;
  for (const auto& s : in) all.push_back({s.name(), s.payload()});
  return all;
}

void take_rare_stage(const v1::StageSnapshot& o, StageInstance& s) {
  const bool any = !o.handle().empty() || !o.checkpoint().empty() || !o.survivors().empty() ||
                   !o.borrowers().empty() || !o.lender().empty() || o.quick_losses() != 0 ||
                   o.ready_boot_ms() != 0 || o.last_late_counter() != 0;
  if (!any) return;
  StageInstance::Rare& r = s.rare.make();
  r.handle = o.handle();
  r.checkpoint = o.checkpoint();
  r.survivors.assign(o.survivors().begin(), o.survivors().end());
  r.borrowers.assign(o.borrowers().begin(), o.borrowers().end());
  r.lender = o.lender();
  r.quick_losses = o.quick_losses();
  r.ready_boot_ms = o.ready_boot_ms();
  r.last_late_counter = o.last_late_counter();
}

StageInstance stage_of(const v1::StageSnapshot& o) {
  StageInstance s;
  s.key = {static_cast<StageIndex>(o.stage()), o.map_index()};
  s.state = o.state();
  s.mode = o.mode();
  s.after_cancel = o.after_cancel();
  s.dispatched_once = o.dispatched_once();
  s.in_own = o.in_own();
  s.expanded = o.expanded();
  s.surplus = o.surplus();
  s.attempt = o.attempt();
  s.attempts_total = o.attempts_total();
  s.generation = o.generation();
  s.failures = o.failures();
  s.epoch = {o.epoch_incarnation(), o.epoch_counter()};
  s.last_ended_counter = o.last_ended_counter();
  s.started_wall_ms = o.started_wall_ms();
  s.ended_wall_ms = o.ended_wall_ms();
  if (!o.outputs().empty()) s.outputs = std::make_shared<const Values>(values_of(o.outputs()));
  if (o.has_item()) s.item = std::make_shared<const Values>(Values{{"item", o.item(), false}});
  if (o.has_error()) s.failure.make() = o.error();
  if (!o.host_id().empty() || o.has_process()) {
    s.host.make().id = o.host_id();
    s.host.make().process = o.process();
  }
  take_rare_stage(o, s);
  return s;
}

void take_submitted(const v1::SubmittedSnapshot& o, RunState& run, Workflows& workflows) {
  auto s = std::make_shared<Submitted>();
  s->idempotency_key = o.idempotency_key();
  s->submitter = o.submitter();
  s->schedule = o.schedule();
  s->inputs = values_of(o.inputs());
  s->options = labels_of(o.options());
  s->limit_keys.assign(o.limit_keys().begin(), o.limit_keys().end());
  s->forked_of = o.forked_of();
  s->forked_from_stage = o.forked_from_stage();
  run.submitted = std::move(s);
  if (o.plugin_versions().empty() && o.plugin_hashes().empty()) return;
  Pins pins;
  for (const auto& p : o.plugin_versions()) pins.versions.emplace_back(p.name(), p.version());
  pins.hashes = labels_of(o.plugin_hashes());
  run.pins = workflows.share(std::move(pins));
}

void take_numbers(const v1::RunSnapshot& o, RunState& run) {
  run.run_id = o.run_id();
  run.run_number = o.run_number();
  run.name = o.name();
  run.last_commit = o.last_commit();
  RunState::Numbers& n = run.n;
  n.phase = o.phase();
  n.outcome = o.outcome();
  n.paused = o.paused();
  n.quarantined = o.quarantined();
  n.teardown_needs_human = o.teardown_needs_human();
  n.priority = o.priority();
  n.generation = o.generation();
  n.incarnation = o.incarnation();
  n.epoch_counter = o.epoch_counter();
  n.boot = o.boot();
  n.run_seq = o.run_seq();
  n.created_wall_ms = o.created_wall_ms();
  n.updated_wall_ms = o.updated_wall_ms();
  n.updated_boot_ms = o.updated_boot_ms();
  n.first_serving_wall_ms = o.first_serving_wall_ms();
  n.rewinds_total = o.rewinds_total();
  n.rewinds_since_ready = o.rewinds_since_ready();
  n.state = visible_state(n);
}

void take_rare(const v1::RunSnapshot& o, RunState& run) {
  const bool any = o.has_error() || !o.survivors().empty() || !o.ended_by().empty() ||
                   !o.end_reason().empty() || !o.paused_by().empty() ||
                   !o.pause_reason().empty() || !o.quarantine_reason().empty() ||
                   !o.signals().empty() || !o.last_signals().empty() || !o.request_keys().empty();
  if (!any) return;
  RunState::Rare& r = run.rare.make();
  if (o.has_error()) r.error.make() = o.error();
  r.survivors.assign(o.survivors().begin(), o.survivors().end());
  r.ended_by = o.ended_by();
  r.end_reason = o.end_reason();
  r.paused_by = o.paused_by();
  r.pause_reason = o.pause_reason();
  r.quarantine_reason = o.quarantine_reason();
  r.signals = signals_of(o.signals());
  r.last_signals = signals_of(o.last_signals());
  r.request_keys.assign(o.request_keys().begin(), o.request_keys().end());
}

Status take_stages(const v1::RunSnapshot& o, RunState& run) {
  run.stages.reserve(static_cast<size_t>(o.stages_size()));
  for (const v1::StageSnapshot& s : o.stages()) {
    if (s.stage() >= run.workflow->size())
      return broken(o, "stage " + std::to_string(s.stage()) + " is not in its workflow");
    if (!v1::StageState_IsValid(s.state()) || s.state() == v1::STAGE_STATE_UNSPECIFIED ||
        !v1::AttemptMode_IsValid(s.mode()) || !v1::AfterCancel_IsValid(s.after_cancel()))
      return broken(o, "stage " + std::to_string(s.stage()) + " has the unknown state " +
                           std::to_string(s.state()));
    StageInstance made = stage_of(s);
    if (!run.stages.empty() && !(run.stages.back().key < made.key))
      return broken(o, "its stages are out of order");
    run.stages.push_back(std::move(made));
  }
  for (size_t i = 0; i < run.workflow->size(); ++i) {
    if (!run.find(StageKey{static_cast<StageIndex>(i), 0}))
      return broken(o, "stage " + run.workflow->stage(static_cast<StageIndex>(i)).name() +
                           " is missing");
  }
  return {};
}

Status take_timers(const v1::RunSnapshot& o, RunState& run) {
  for (const v1::TimerSnapshot& t : o.timers()) {
    const StageKey key{static_cast<StageIndex>(t.stage()), t.map_index()};
    if (t.stage() > kRunItself.stage || (key != kRunItself && !run.find(key)))
      return broken(o, "a timer of an unknown stage");
    if (!v1::TimerKind_IsValid(t.kind())) return broken(o, "a timer of an unknown kind");
    run.timers.push_back({key, t.kind(), t.epoch_counter(), t.due_boot_ms(), t.left_ms(),
                          t.frozen()});
  }
  return {};
}

}  // namespace

Result<RunState> decode_run(std::string_view bytes, Workflows& workflows) {
  v1::RunSnapshot o;
  if (!o.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || o.run_id().empty())
    return Error{ErrorCode::kJournal, "the snapshot of a run cannot be read", {}};
  if (o.format() != 1)
    return broken(o, "its snapshot has the unknown format " + std::to_string(o.format()));
  if (!v1::RunState_IsValid(o.phase()) || o.phase() == v1::RUN_STATE_UNSPECIFIED ||
      !v1::RunState_IsValid(o.outcome()))
    return broken(o, "unknown state " + std::to_string(o.phase()));
  RunState run;
  take_numbers(o, run);
  BP_ASSIGN(run.workflow, workflows.find(o.workflow_hash()));
  take_submitted(o.submitted(), run, workflows);
  run.labels = labels_of(o.labels());
  BP_TRY(take_stages(o, run));
  BP_TRY(take_timers(o, run));
  take_rare(o, run);
  return run;
}

}  // namespace bp::core
