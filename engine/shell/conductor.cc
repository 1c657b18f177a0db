#include "engine/shell/conductor.h"

#include "engine/base/log.h"
#include "engine/shell/conductor_run.h"

namespace bp::shell {
uint64_t number_of_id(const std::string& run_id) {
  uint64_t number = 0;
  size_t i = 1;
  for (; i < run_id.size() && i < 20 && run_id[i] >= '0' && run_id[i] <= '9'; ++i)
    number = number * 10 + static_cast<uint64_t>(run_id[i] - '0');
  return i > 1 && i < run_id.size() && run_id[0] == 'r' && run_id[i] == '-' ? number : 0;
}

Conductor::Conductor(World& world, Hooks hooks, std::string boot_id, FaultMark* mark)
    : world_(world),
      hooks_(std::move(hooks)),
      boot_id_(std::move(boot_id)),
      mark_(mark),
      workflows_([this](const std::string& hash) -> Result<std::string> {
        BP_ASSIGN(auto bytes, world_.journal.blob(hash));
        if (!bytes) return Error{ErrorCode::kNotFound, "no workflow with hash " + hash, {}};
        return *std::move(bytes);
      }),
      timers_(world, [this](uint64_t run_number) { timer_due(run_number); }),
      pending_(std::make_unique<Unit>()) {
  if (mark_) mark_->start();
}

Conductor::~Conductor() {
  *alive_ = false;
  world_.executor.cancel(snapshot_timer_);
}

void Conductor::stamp(v1::Event& event) const {
  event.set_core_version(core::kCoreVersion);
  event.set_wall_ms(world_.clock.wall_ms());
  event.set_boot_ms(world_.clock.boot_ms());
  event.set_may_dispatch(hooks_.may_dispatch());
  if (event.has_run_released()) {
    event.mutable_run_released()->set_incarnation(incarnation_);
    event.mutable_run_released()->set_boot_id(boot_id_);
  }
}

Status Conductor::feed(const std::string& run_id, v1::Event&& event, std::function<void()> durable,
                       Extra extra) {
  Run* run = run_of(run_id);
  if (!run) return Error{ErrorCode::kNotFound, "no live run " + run_id, {}};
  return apply(*run, std::move(event), std::move(durable), std::move(extra));
}

Status Conductor::feed(uint64_t run_number, v1::Event&& event, std::function<void()> durable,
                       Extra extra) {
  Run* run = run_of(run_number);
  if (!run)
    return Error{ErrorCode::kNotFound, "no live run number " + std::to_string(run_number), {}};
  return apply(*run, std::move(event), std::move(durable), std::move(extra));
}

std::string Conductor::next_run_id() {
  const std::string prefix = "r" + std::to_string(last_run_number_ + 1);
  return world_.random.id(prefix).substr(0, prefix.size() + 7);
}

Status Conductor::submit(v1::RunSubmitted&& submitted, const core::Workflow::Ptr& workflow,
                         std::function<void()> durable, Extra extra) {
  if (submitted.name().empty()) submitted.set_name(submitted.run_id());
  if (names_.count(submitted.name())) {
    return Error{ErrorCode::kAlreadyExists, "deployment " + submitted.name() + " exists", {}};
  }
  const uint64_t number = last_run_number_ + 1;
  submitted.set_run_number(number);
  submitted.set_incarnation(incarnation_);
  submitted.set_boot_id(boot_id_);
  submitted.set_workflow_hash(workflow->hash());
  if (!pinned_.count(workflow->hash())) extra.blobs[workflow->hash()] = workflow->bytes();
  const std::string id = submitted.run_id(), name = submitted.name(),
                    key = submitted.idempotency_key();
  v1::Event event;
  *event.mutable_submitted() = std::move(submitted);
  auto& run = *(runs_[number] = std::make_unique<Run>());
  run.state.run_number = number;
  run.started = true;
  Status done = apply(run, std::move(event), std::move(durable), std::move(extra));
  if (!done.ok()) {
    runs_.erase(number);
    return done;
  }
  pinned_.insert(workflow->hash());
  last_run_number_ = number;
  if (name != id) names_[name] = number;
  if (!key.empty()) keys_[key] = number;
  if (number_of_id(id) != number) other_ids_[id] = number;
  return {};
}

// A fault leaves nothing behind: not in the journal, and the state is read anew from there.
Result<core::Outcome> Conductor::apply_guarded(core::RunState& state, v1::Event&& event) {
  const auto type = static_cast<uint32_t>(event.what_case());
  const uint64_t number = state.run_number;
  if (mark_ && mark_->condemned(number, type)) {
    return Error{ErrorCode::kInternal, "the daemon died twice at this event", {}};
  }
  if (mark_) mark_->begin(number, type);
  try {
    core::Outcome outcome = core::apply(state, std::move(event), workflows_);
    if (mark_) mark_->end();
    return outcome;
  } catch (const core::Fault& fault) {
    if (mark_) mark_->end();
    return Error{ErrorCode::kInternal, fault.what(), {}};
  }
}

Status Conductor::apply(Run& run, v1::Event&& event, std::function<void()> durable, Extra extra) {
  if (halted_) return Error{ErrorCode::kJournal, "the daemon is stopping", {}};
  if (run.suspended) {
    return Error{ErrorCode::kConflict, "run " + run.state.run_id + " is being quarantined", {}};
  }
  if (!run.started) start_run(run);
  stamp(event);
  const auto type = static_cast<uint32_t>(event.what_case());
  const uint64_t number = run.state.run_number;
  auto applied = apply_guarded(run.state, std::move(event));
  if (!applied.ok()) {
    BP_LOG(err, "run.fault", "run={} event={} why={}", run.state.run_id, type,
           applied.error().message);
    if (type == v1::Event::kSubmitted) return applied.error();
    run.suspended = true;
    after_durable([this, number, why = applied.error().message, type] {
      quarantine(number, why, type);
    });
    return applied.error();
  }
  core::Outcome& outcome = *applied;
  Effect effect;
  effect.run_number = number;
  effect.changed = outcome.changed;
  effect.ended = outcome.ended;
  if (outcome.changed) journal(run, outcome);
  add(std::move(extra));
  effect.actions = std::move(outcome.actions);
  if (outcome.accepted.ok()) effect.durable = std::move(durable);
  if (outcome.accepted.ok() || !effect.actions.empty()) {
    pending_->effects.push_back(std::move(effect));
    kick();
  }
  return std::move(outcome.accepted);
}

void Conductor::journal(Run& run, core::Outcome& outcome) {
  core::RunState& state = run.state;
  storage::Commit& c = pending_->commit;
  storage::Entry& entry = c.entries.emplace_back();
  entry.run_number = state.run_number;
  entry.run_seq = state.n.run_seq;
  entry.previous_commit = state.last_commit;
  entry.wall_ms = outcome.record.wall_ms();
  entry.type = static_cast<uint32_t>(outcome.record.what_case());
  entry.next = core::next_of(state);
  entry.body = core::encode_event(outcome.record);
  set_active(run, entry.next.actor);
  state.last_commit = pending_number();
  ++counters_.events;
  if (run.dirty_from == 0) {
    run.dirty_from = pending_number();
    dirty_.push_back({state.run_number, run.dirty_from, world_.clock.boot_ms()});
  }
  if (outcome.revived) {
    // Its row went when it ended: what the log tells from here on needs one to stand on.
    run.snapshot_now = true;
    c.revived.push_back(state.run_number);
    ended_by_number_.erase(state.run_number);
    if (state.name != state.run_id) names_[state.name] = state.run_number;
  }
  if (outcome.drop_secrets) {
    std::erase_if(c.put_secrets, [&](const auto& s) { return s.run_number == state.run_number; });
    c.drop_secrets_of_runs.push_back(state.run_number);
  }
  if (outcome.ended) return end(run);
  if (!outcome.put_timers.empty() || !outcome.drop_timers.empty()) arm(run);
}

void Conductor::set_active(Run& run, storage::Actor actor) {
  const bool active = actor == storage::Actor::kDaemon || actor == storage::Actor::kStageHost;
  if (active == run.active) return;
  run.active = active;
  active ? ++active_ : --active_;
}

void Conductor::end(Run& run) {
  const core::RunState& state = run.state;
  storage::Commit& c = pending_->commit;
  storage::EndedRow row = core::ended_row(state);
  row.last_commit = state.last_commit;
  c.ended.push_back(row);
  std::erase_if(c.put_live, [&](const auto& r) { return r.run_number == state.run_number; });
  if (run.has_row) c.drop_live.push_back(state.run_number);
  run.has_row = run.snapshot_now = false;
  run.dirty_from = 0;
  timers_.remove(state.run_number);
  if (state.name != state.run_id) names_.erase(state.name);
  if (!row.idempotency_key.empty()) {
    keys_.erase(row.idempotency_key);
    ended_keys_[row.idempotency_key] = row.run_number;
  }
  ended_.push_back(std::move(row));
  ended_by_number_[state.run_number] = &ended_.back();
  ++counters_.runs_ended;
}

void Conductor::quarantine(uint64_t run_number, const std::string& reason, uint32_t event_type) {
  Run* run = run_of(run_number);
  if (!run) return;
  auto again = rebuild(run_number, run->state.last_commit);
  if (again.ok()) run->state = std::move(again).value();
  run->suspended = false;
  v1::Event event;
  event.mutable_run_quarantined()->set_reason(reason.substr(0, 512));
  event.mutable_run_quarantined()->set_event_type(event_type);
  ++counters_.quarantined;
  Status fed = apply(*run, std::move(event), {}, {});
  if (!fed.ok()) {
    BP_LOG(err, "run.not_quarantined", "run={} why={}", run->state.run_id, fed.error().message);
    run->suspended = true;
  }
}

void Conductor::add(Extra&& extra) {
  storage::Commit& c = pending_->commit;
  for (auto& s : extra.secrets) {
    std::erase_if(c.put_secrets, [&](const auto& old) {
      return old.run_number == s.run_number && old.name == s.name;
    });
    c.put_secrets.push_back(std::move(s));
  }
  for (auto& [key, value] : extra.meta) {
    std::erase(c.drop_meta, key);
    c.put_meta[key] = meta_[key] = value;
  }
  for (auto& key : extra.drop_meta) {
    if (meta_.erase(key) == 0) continue;
    c.put_meta.erase(key);
    c.drop_meta.push_back(key);
  }
  c.put_blobs.merge(extra.blobs);
}

void Conductor::write(Extra extra, std::function<void()> durable) {
  if (halted_) return;
  add(std::move(extra));
  after_durable(std::move(durable));
}

void Conductor::after_durable(std::function<void()> call) {
  if (halted_) return;
  Effect effect;
  effect.durable = std::move(call);
  pending_->effects.push_back(std::move(effect));
  kick();
}

void Conductor::arm(const Run& run) {
  int64_t due = 0;
  for (const auto& timer : run.state.timers) {
    if (!timer.frozen && (due == 0 || timer.due_boot_ms < due)) due = timer.due_boot_ms;
  }
  if (due == 0) return timers_.remove(run.state.run_number);
  timers_.set(run.state.run_number, due);
}

void Conductor::timer_due(uint64_t run_number) {
  Run* run = run_of(run_number);
  if (!run || halted_) return;
  const int64_t now = world_.clock.boot_ms();
  std::vector<core::Timer> due;
  for (const auto& timer : run->state.timers) {
    if (!timer.frozen && timer.due_boot_ms <= now) due.push_back(timer);
  }
  bool refused = false;
  for (const auto& timer : due) {
    Status fed = feed(run_number, core::timer_event(run->state, timer));
    if (!fed.ok()) {
      refused = true;
      BP_LOG(debug, "event.refused", "run={} why={}", run->state.run_id, fed.error().message);
    }
    if (!(run = run_of(run_number))) return;
  }
  if (core::is_ended(run->state.state())) return;
  arm(*run);
  if (refused) timers_.set(run_number, now + kSnapshotMs);  // not again at once
}

}  // namespace bp::shell
