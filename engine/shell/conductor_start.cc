// The start: rows of live runs, the tail of the log replayed over them, and DaemonStarted to each.
#include <algorithm>

#include "engine/base/log.h"
#include "engine/shell/conductor_run.h"

namespace bp::shell {
namespace {
constexpr size_t kStartedPerTurn = 256;
constexpr uint64_t kLagMax = 10'000;  // commits
}

Status Conductor::load() {
  BP_ASSIGN(auto recovered, world_.journal.recover());
  last_number_ = recovered.last_commit;
  last_run_number_ = recovered.last_run_number;
  incarnation_ = recovered.incarnation;
  meta_ = std::move(recovered.meta);
  BP_TRY(load_rows(recovered));
  // What has just ended and cannot be found yet is taken in as well. An index that is far behind is
  // being built anew: it says so when it is asked.
  uint64_t from = std::max<uint64_t>(1, recovered.replay_from);
  const uint64_t unsearchable = world_.journal.searchable_up_to() + 1;
  if (unsearchable < from && from - unsearchable < kLagMax) from = unsearchable;
  if (from <= last_number_) {
    BP_TRY(world_.journal.read_log(from, last_number_,
                                   [this](const storage::LogRecord& r) { return replay(r); }));
  }
  for (auto it = runs_.begin(); it != runs_.end();) {
    Run& run = *it->second;
    const bool ended = core::is_ended(run.state.state());
    if (ended && run.state.last_commit > world_.journal.searchable_up_to()) {
      storage::EndedRow row = core::ended_row(run.state);
      row.last_commit = run.state.last_commit;
      ended_.push_back(std::move(row));
    }
    it = ended || run.state.run_id.empty() ? runs_.erase(it) : std::next(it);
  }
  std::sort(ended_.begin(), ended_.end(),
            [](const auto& a, const auto& b) { return a.last_commit < b.last_commit; });
  for (const auto& row : ended_) {
    ended_by_number_[row.run_number] = &row;
    if (!row.idempotency_key.empty()) ended_keys_[row.idempotency_key] = row.run_number;
  }
  for (const auto& [number, run] : runs_) {
    const core::RunState& s = run->state;
    to_start_.push_back(number);
    if (s.name != s.run_id) names_[s.name] = number;
    if (!s.submitted->idempotency_key.empty()) keys_[s.submitted->idempotency_key] = number;
    if (number_of_id(s.run_id) != number) other_ids_[s.run_id] = number;
    set_active(*run, core::next_of(s).actor);
    if (run->dirty_from) dirty_.push_back({number, run->dirty_from, world_.clock.boot_ms()});
  }
  std::sort(to_start_.begin(), to_start_.end(), std::greater<>());
  std::sort(dirty_.begin(), dirty_.end(),
            [](const auto& a, const auto& b) { return a.first_commit < b.first_commit; });
  return {};
}

Status Conductor::load_rows(const storage::Recovered& recovered) {
  runs_.reserve(recovered.live.size());
  for (const auto& row : recovered.live) {
    auto state = core::decode_run(row.body, workflows_);
    if (!state.ok()) return std::move(state).error().with_context("run " + row.run_id);
    auto& run = *(runs_[row.run_number] = std::make_unique<Run>());
    run.state = std::move(state).value();
    run.state.last_commit = row.last_commit;
    run.has_row = true;
  }
  return {};
}

Status Conductor::replay(const storage::LogRecord& record) {
  for (const auto& entry : record.entries) {
    if (entry.run_number == 0) continue;
    BP_TRY(replay(entry, record.number));
  }
  return {};
}

// A run whose beginning lies before the tail and that has no row has ended: its row went.
Status Conductor::replay(const storage::Entry& entry, uint64_t commit) {
  Run* run = run_of(entry.run_number);
  if (!run) {
    auto begun = std::make_unique<Run>();
    if (entry.run_seq > 1) {
      auto before = rebuild(entry.run_number, entry.previous_commit);
      if (!before.ok()) {
        BP_LOG(debug, "replay.skipped", "run_number={} why={}", entry.run_number,
               before.error().message);
        return {};
      }
      begun->state = std::move(before).value();
    }
    begun->state.run_number = entry.run_number;
    run = (runs_[entry.run_number] = std::move(begun)).get();
  }
  core::RunState& state = run->state;
  if (entry.run_seq <= state.n.run_seq && !state.run_id.empty()) return {};
  v1::Event event;
  if (!entry.body_hash.empty() || !event.ParseFromString(entry.body)) {
    return Error{ErrorCode::kJournal,
                 "commit " + std::to_string(commit) + ": the event of run number " +
                     std::to_string(entry.run_number) + " cannot be read",
                 {}};
  }
  if (run->fault.empty()) {
    auto applied = apply_guarded(state, std::move(event));
    if (!applied.ok()) {
      run->fault = applied.error().message;
      run->fault_type = entry.type;
    }
  }
  state.n.run_seq = entry.run_seq;
  state.last_commit = commit;
  if (run->dirty_from == 0) run->dirty_from = commit;
  return {};
}

void Conductor::recover(std::function<void()> all) {
  all_started_ = std::move(all);
  recover_some();
}

// Newest numbers last: to_start_ falls.
void Conductor::recover_some() {
  if (halted_) return;
  for (size_t i = 0; i < kStartedPerTurn && !to_start_.empty(); ++i) {
    Run* run = run_of(to_start_.back());
    to_start_.pop_back();
    if (run && !run->started) start_run(*run);
  }
  if (to_start_.empty()) {
    if (all_started_) after_durable(std::exchange(all_started_, {}));
    return;
  }
  world_.executor.post([this, alive = alive_] {
    if (*alive) recover_some();
  });
}

void Conductor::start_run(Run& run) {
  run.started = true;
  const std::string id = run.state.run_id;
  if (!run.fault.empty()) {
    return quarantine(run.state.run_number, std::exchange(run.fault, {}), run.fault_type);
  }
  v1::Event event;
  event.mutable_daemon_started()->set_incarnation(incarnation_);
  event.mutable_daemon_started()->set_boot_id(boot_id_);
  Status fed = apply(run, std::move(event), {}, {});
  if (!fed.ok()) BP_LOG(err, "run.recovery_refused", "run={} why={}", id, fed.error().message);
  if (!core::is_ended(run.state.state())) arm(run);  // timers that stay as they were are no news
}

}  // namespace bp::shell
