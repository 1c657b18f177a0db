// A run as bytes: snapshots in rows of live runs. Equal states give equal bytes.
#include "engine/core/step.h"

namespace bp::core {
namespace {

constexpr uint32_t kFormat = 1;

template <class Field>
void put_values(const Values& values, Field* out) {
  for (const Value& v : values) {
    v1::ValueSnapshot* o = out->Add();
    o->set_name(v.name);
    o->set_bytes(v.bytes);
    o->set_is_blob(v.is_blob);
  }
}

template <class Pairs, class Field>
void put_labels(const Pairs& pairs, Field* out) {
  for (const auto& [name, value] : pairs) {
    v1::LabelSnapshot* o = out->Add();
    o->set_name(name);
    o->set_value(value);
  }
}

void put_signals(const std::vector<Signal>& signals,
                 google::protobuf::RepeatedPtrField<v1::SignalSnapshot>* out) {
  for (const Signal& s : signals) {
    v1::SignalSnapshot* o = out->Add();
    o->set_name(s.name);
    o->set_payload(s.payload);
  }
}

void put_stage(const StageInstance& s, v1::StageSnapshot* o) {
  o->set_stage(s.key.stage);
  o->set_map_index(s.key.map_index);
  o->set_state(s.state);
  o->set_mode(s.mode);
  o->set_after_cancel(s.after_cancel);
  o->set_dispatched_once(s.dispatched_once);
  o->set_in_own(s.in_own);
  o->set_expanded(s.expanded);
  o->set_surplus(s.surplus);
  o->set_attempt(s.attempt);
  o->set_attempts_total(s.attempts_total);
  o->set_generation(s.generation);
  o->set_failures(s.failures);
  o->set_epoch_incarnation(s.epoch.incarnation);
  o->set_epoch_counter(s.epoch.counter);
  o->set_last_ended_counter(s.last_ended_counter);
  o->set_started_wall_ms(s.started_wall_ms);
  o->set_ended_wall_ms(s.ended_wall_ms);
  if (s.outputs) put_values(*s.outputs, o->mutable_outputs());
  if (s.item) o->set_item(s.item->front().bytes);
  o->set_has_item(s.item != nullptr);
  if (s.failure) *o->mutable_error() = *s.failure.get();
  if (s.host) {
    o->set_host_id(s.host.get()->id);
    *o->mutable_process() = s.host.get()->process;
  }
  if (!s.rare) return;
  const StageInstance::Rare& r = *s.rare.get();
  o->set_handle(r.handle);
  o->set_checkpoint(r.checkpoint);
  o->mutable_survivors()->Add(r.survivors.begin(), r.survivors.end());
  o->mutable_borrowers()->Add(r.borrowers.begin(), r.borrowers.end());
  o->set_lender(r.lender);
  o->set_quick_losses(r.quick_losses);
  o->set_ready_boot_ms(r.ready_boot_ms);
  o->set_last_late_counter(r.last_late_counter);
}

void put_submitted(const RunState& run, v1::SubmittedSnapshot* o) {
  const Submitted& s = *run.submitted;
  o->set_idempotency_key(s.idempotency_key);
  o->set_submitter(s.submitter);
  o->set_schedule(s.schedule);
  put_values(s.inputs, o->mutable_inputs());
  put_labels(s.options, o->mutable_options());
  o->mutable_limit_keys()->Add(s.limit_keys.begin(), s.limit_keys.end());
  o->set_forked_of(s.forked_of);
  o->set_forked_from_stage(s.forked_from_stage);
  if (!run.pins) return;
  for (const auto& [name, version] : run.pins->versions) {
    v1::PinSnapshot* pin = o->add_plugin_versions();
    pin->set_name(name);
    pin->set_version(version);
  }
  put_labels(run.pins->hashes, o->mutable_plugin_hashes());
}

void put_numbers(const RunState& run, v1::RunSnapshot* o) {
  const RunState::Numbers& n = run.n;
  o->set_format(kFormat);
  o->set_run_id(run.run_id);
  o->set_run_number(run.run_number);
  o->set_name(run.name);
  o->set_phase(n.phase);
  o->set_outcome(n.outcome);
  o->set_paused(n.paused);
  o->set_quarantined(n.quarantined);
  o->set_teardown_needs_human(n.teardown_needs_human);
  o->set_priority(n.priority);
  o->set_generation(n.generation);
  o->set_incarnation(n.incarnation);
  o->set_epoch_counter(n.epoch_counter);
  o->set_boot(n.boot);
  o->set_run_seq(n.run_seq);
  o->set_last_commit(run.last_commit);
  o->set_created_wall_ms(n.created_wall_ms);
  o->set_updated_wall_ms(n.updated_wall_ms);
  o->set_updated_boot_ms(n.updated_boot_ms);
  o->set_first_serving_wall_ms(n.first_serving_wall_ms);
  o->set_rewinds_total(n.rewinds_total);
  o->set_rewinds_since_ready(n.rewinds_since_ready);
}

void put_rare(const RunState::Rare& r, v1::RunSnapshot* o) {
  if (r.error) *o->mutable_error() = *r.error.get();
  o->mutable_survivors()->Add(r.survivors.begin(), r.survivors.end());
  o->set_ended_by(r.ended_by);
  o->set_end_reason(r.end_reason);
  o->set_paused_by(r.paused_by);
  o->set_pause_reason(r.pause_reason);
  o->set_quarantine_reason(r.quarantine_reason);
  put_signals(r.signals, o->mutable_signals());
  put_signals(r.last_signals, o->mutable_last_signals());
  o->mutable_request_keys()->Add(r.request_keys.begin(), r.request_keys.end());
}

void put_timer(const Timer& t, v1::TimerSnapshot* o) {
  o->set_stage(t.key.stage);
  o->set_map_index(t.key.map_index);
  o->set_kind(t.kind);
  o->set_epoch_counter(t.epoch_counter);
  o->set_due_boot_ms(t.due_boot_ms);
  o->set_left_ms(t.left_ms);
  o->set_frozen(t.frozen);
}

}  // namespace

std::string encode_run(const RunState& state) {
  v1::RunSnapshot o;
  put_numbers(state, &o);
  if (state.workflow) o.set_workflow_hash(state.workflow->hash());
  if (state.submitted) put_submitted(state, o.mutable_submitted());
  put_labels(state.labels, o.mutable_labels());
  for (const StageInstance& s : state.stages) put_stage(s, o.add_stages());
  for (const Timer& t : state.timers) put_timer(t, o.add_timers());
  if (state.rare) put_rare(*state.rare.get(), &o);
  return serialize(o);
}

}  // namespace bp::core
