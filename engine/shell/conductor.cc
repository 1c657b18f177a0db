#include "engine/shell/conductor.h"

#include "engine/base/log.h"

namespace bp::shell {
namespace {

using TimerRowKey = std::tuple<std::string, std::string, uint32_t, int>;
TimerRowKey key_of(const storage::TimerRow& t) { return {t.run_id, t.stage, t.map_index, t.kind}; }

}  // namespace

// What goes into one commit: rows by key, so that a later event's row replaces an earlier one's.
struct Conductor::Unit {
  std::vector<storage::EventRow> events;
  std::map<std::string, storage::RunRow> runs;
  std::map<std::tuple<std::string, std::string, uint32_t>, storage::StageRow> stages;
  std::map<TimerRowKey, storage::TimerRow> put_timers, drop_timers;
  std::map<std::pair<std::string, std::string>, storage::Batch::SecretRow> secrets;
  std::set<std::string> drop_secrets;
  std::map<std::string, std::string> meta;
  std::vector<std::function<void()>> after;

  void add(storage::Batch&& b) {
    for (auto& e : b.events) events.push_back(std::move(e));
    for (auto& r : b.put_runs) runs[r.run_id] = std::move(r);
    for (auto& s : b.put_stages) stages[{s.run_id, s.stage, s.map_index}] = std::move(s);
    for (auto& t : b.drop_timers) {
      put_timers.erase(key_of(t));
      drop_timers[key_of(t)] = t;
    }
    for (auto& t : b.put_timers) {
      drop_timers.erase(key_of(t));
      put_timers[key_of(t)] = t;
    }
    for (auto& run_id : b.drop_secrets_of_runs) {
      std::erase_if(secrets, [&](const auto& s) { return s.first.first == run_id; });
      drop_secrets.insert(run_id);
    }
    add_secrets(std::move(b.put_secrets));
    for (auto& [k, v] : b.put_meta) meta[k] = std::move(v);
  }
  void add_secrets(std::vector<storage::Batch::SecretRow> rows) {
    for (auto& s : rows) secrets[{s.run_id, s.name}] = std::move(s);
  }
  storage::Batch take() {
    storage::Batch b;
    b.events = std::move(events);
    for (auto& [k, v] : runs) b.put_runs.push_back(std::move(v));
    for (auto& [k, v] : stages) b.put_stages.push_back(std::move(v));
    for (auto& [k, v] : put_timers) b.put_timers.push_back(std::move(v));
    for (auto& [k, v] : drop_timers) b.drop_timers.push_back(std::move(v));
    for (auto& [k, v] : secrets) b.put_secrets.push_back(std::move(v));
    b.drop_secrets_of_runs.assign(drop_secrets.begin(), drop_secrets.end());
    b.put_meta = std::move(meta);
    return b;
  }
  bool nothing_to_write() const {
    return events.empty() && runs.empty() && stages.empty() && put_timers.empty() &&
           drop_timers.empty() && secrets.empty() && drop_secrets.empty() && meta.empty();
  }
};

Conductor::Conductor(World& world, Hooks hooks)
    : world_(world), hooks_(std::move(hooks)), pending_(std::make_unique<Unit>()) {}
Conductor::~Conductor() { *alive_ = false; }

Status Conductor::load() {
  BP_ASSIGN(auto live, world_.store.load_live());
  last_seq_ = live.last_seq;
  last_run_number_ = live.last_run_number;
  incarnation_ = live.incarnation;
  meta_ = std::move(live.meta);
  for (const auto& row : live.runs) {
    std::vector<storage::StageRow> stages;
    std::vector<storage::TimerRow> timers;
    for (const auto& s : live.stages) {
      if (s.run_id == row.run_id) stages.push_back(s);
    }
    for (const auto& t : live.timers) {
      if (t.run_id == row.run_id) timers.push_back(t);
    }
    auto run = core::decode(row, stages, timers);
    if (!run.ok()) return std::move(run).error().with_context("run " + row.run_id);
    runs_.emplace(row.run_id, std::move(run).value());
  }
  return {};
}

void Conductor::recover(const std::string& boot_id) {
  std::vector<std::string> ids;
  for (const auto& [id, run] : runs_) ids.push_back(id);
  for (const auto& id : ids) {
    v1::Event event;
    event.mutable_daemon_started()->set_incarnation(incarnation_);
    event.mutable_daemon_started()->set_boot_id(boot_id);
    Status fed = feed(id, std::move(event));
    if (!fed.ok()) BP_LOG(err, "run.recovery_refused", "run={} why={}", id, fed.error().message);
  }
}

void Conductor::stamp(v1::Event& event) const {
  event.set_core_version(core::kCoreVersion);
  event.set_wall_ms(world_.clock.wall_ms());
  event.set_boot_ms(world_.clock.boot_ms());
}

Status Conductor::feed(const std::string& run_id, v1::Event event, std::function<void()> durable,
                       Extra extra) {
  auto it = runs_.find(run_id);
  if (it == runs_.end()) return Error{ErrorCode::kNotFound, "no live run " + run_id, {}};
  stamp(event);
  return apply(it->second, event, std::move(durable), std::move(extra));
}

Status Conductor::submit(v1::RunSubmitted submitted, const std::string& boot_id,
                         std::function<void()> durable, Extra extra) {
  submitted.set_run_number(last_run_number_ + 1);
  submitted.set_incarnation(incarnation_);
  submitted.set_boot_id(boot_id);
  const std::string id = submitted.run_id();
  v1::Event event;
  *event.mutable_submitted() = std::move(submitted);
  stamp(event);
  core::RunState& run = runs_[id];
  Status done = apply(run, event, std::move(durable), std::move(extra));
  if (!done.ok()) {
    runs_.erase(id);
    return done;
  }
  ++last_run_number_;
  return {};
}

Status Conductor::apply(core::RunState& run, v1::Event& event, std::function<void()> durable,
                        Extra extra) {
  if (halted_) return Error{ErrorCode::kJournal, "the daemon is stopping", {}};
  core::Outcome outcome = core::apply(run, event);
  if (!outcome.accepted.ok()) return outcome.accepted;
  for (auto& row : outcome.batch.events) row.seq = ++last_seq_;
  auto put = outcome.batch.put_timers;
  auto drop = outcome.batch.drop_timers;
  pending_->add(std::move(outcome.batch));
  pending_->add_secrets(std::move(extra.secrets));
  for (auto& [k, v] : extra.meta) pending_->meta[k] = meta_[k] = v;
  pending_->after.push_back([this, put = std::move(put), drop = std::move(drop),
                             actions = std::move(outcome.actions), durable = std::move(durable)] {
    hooks_.timers(put, drop);
    for (const auto& action : actions) hooks_.act(action);
    if (durable) durable();
  });
  kick();
  return {};
}

void Conductor::write(Extra extra, std::function<void()> durable) {
  if (halted_) return;
  pending_->add_secrets(std::move(extra.secrets));
  for (auto& [k, v] : extra.meta) pending_->meta[k] = meta_[k] = v;
  pending_->after.push_back(std::move(durable));
  kick();
}

void Conductor::after_durable(std::function<void()> call) {
  if (halted_) return;
  pending_->after.push_back(std::move(call));
  kick();
}

// One commit at a time; it is begun from the executor, so that all events of one turn share it.
void Conductor::kick() {
  if (in_flight_ || kicked_ || halted_ || pending_->after.empty()) return;
  kicked_ = true;
  world_.executor.post([this, alive = alive_] {
    if (!*alive) return;
    kicked_ = false;
    if (in_flight_ || halted_) return;
    in_flight_ = std::exchange(pending_, std::make_unique<Unit>());
    if (in_flight_->nothing_to_write()) return on_committed({});
    world_.store.commit(in_flight_->take(), [this, alive](Status status) {
      world_.executor.post([this, alive, status = std::move(status)] {
        if (*alive) on_committed(status);
      });
    });
  });
}

void Conductor::on_committed(Status status) {
  if (halted_) return;
  if (!status.ok()) {
    halted_ = true;
    hooks_.fatal(std::move(status));
    return;
  }
  auto unit = std::move(in_flight_);
  for (auto& call : unit->after) {
    if (halted_) return;
    call();
  }
  kick();
}

std::string Conductor::meta(const std::string& key) const {
  auto it = meta_.find(key);
  return it == meta_.end() ? std::string() : it->second;
}

const core::RunState* Conductor::find(const std::string& run_id) const {
  auto it = runs_.find(run_id);
  return it == runs_.end() ? nullptr : &it->second;
}

const core::RunState* Conductor::find_live(const std::string& id_or_name) const {
  if (const auto* run = find(id_or_name)) return run;
  for (const auto& [id, run] : runs_) {
    if (run.name == id_or_name) return &run;
  }
  return nullptr;
}

Status Conductor::revive(const std::string& run_id) {
  if (runs_.count(run_id)) return {};
  BP_ASSIGN(auto row, world_.store.find_run(run_id));
  BP_ASSIGN(auto stages, world_.store.stages_of(row.run_id));
  BP_ASSIGN(auto run, core::decode(row, stages, {}));
  runs_.emplace(row.run_id, std::move(run));
  return {};
}

void Conductor::forget(const std::string& run_id) {
  auto it = runs_.find(run_id);
  if (it != runs_.end() && core::is_ended(it->second.state)) runs_.erase(it);
}

}  // namespace bp::shell
