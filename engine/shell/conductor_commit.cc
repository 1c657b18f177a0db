// Commits: when one begins, which snapshots ride in it, and what follows when it is durable.
#include <algorithm>

#include "engine/shell/conductor_run.h"

namespace bp::shell {
namespace {
constexpr size_t kInFlightMax = 2;
constexpr size_t kFullCommit = 64;  // events that are worth a second commit beside the first
}  // namespace

// Begun from the executor, so that all events of one turn share the commit.
void Conductor::kick() {
  if (kicked_ || halted_) return;
  if (in_flight_.size() >= kInFlightMax) return;
  if (!in_flight_.empty() && pending_->commit.entries.size() < kFullCommit) return;
  kicked_ = true;
  world_.executor.post([this, alive = alive_] {
    if (!*alive) return;
    kicked_ = false;
    if (!halted_ && in_flight_.size() < kInFlightMax) commit();
  });
}

void Conductor::commit() {
  if (pending_->effects.empty() && !settle_) return;
  add_snapshots(pending_->commit, std::exchange(settle_, false));
  auto unit = std::exchange(pending_, std::make_unique<Unit>());
  if (unit->commit.empty()) {
    unit->nothing_to_write = true;
    in_flight_.push_back(std::move(unit));
    if (in_flight_.size() == 1) on_committed({});
    return;
  }
  unit->commit.number = ++last_number_;
  unit->commit.wall_ms = world_.clock.wall_ms();
  ++counters_.commits;
  storage::Commit commit = std::move(unit->commit);
  in_flight_.push_back(std::move(unit));
  world_.journal.commit(std::move(commit), [this, alive = alive_](Status status) {
    world_.executor.post([this, alive, status = std::move(status)]() mutable {
      if (*alive) on_committed(std::move(status));
    });
  });
}

// Puts the rows that are due, and says where a replay would have to begin.
void Conductor::add_snapshots(storage::Commit& c, bool all) {
  constexpr size_t kBytesMax = 4 << 20;
  const int64_t now = world_.clock.boot_ms();
  const uint64_t number = pending_number();
  size_t bytes = 0;
  auto put = [&](Run& run) {
    storage::LiveRow& row = c.put_live.emplace_back();
    const core::RunState& s = run.state;
    row.run_number = s.run_number;
    row.run_id = s.run_id;
    row.name = s.name;
    row.state = s.state();
    row.run_seq = s.n.run_seq;
    row.last_commit = s.last_commit;
    row.next = core::next_of(s);
    row.why = core::why(s);
    row.body = core::encode_run(s);
    bytes += row.body.size();
    run.dirty_from = 0;
    run.has_row = true;
    run.snapshot_now = false;
  };
  for (const uint64_t revived : c.revived) {
    Run* run = run_of(revived);
    if (run && run->snapshot_now) put(*run);
  }
  while (!dirty_.empty()) {
    const Dirty d = dirty_.front();
    Run* run = run_of(d.run_number);
    if (run && run->dirty_from == d.first_commit) {
      if (run->suspended) break;
      if (!all && (d.since_boot_ms + kSnapshotMs > now || bytes > kBytesMax)) break;
      put(*run);
    }
    dirty_.pop_front();
  }
  c.replay_from = dirty_.empty() ? number : dirty_.front().first_commit;
  if (!dirty_.empty()) snapshot_soon();
}

void Conductor::snapshot_soon() {
  if (snapshot_timer_) return;
  const int64_t due = dirty_.front().since_boot_ms + kSnapshotMs;
  snapshot_timer_ = world_.executor.after(
      std::max<int64_t>(1, due - world_.clock.boot_ms()), [this] {
        snapshot_timer_ = 0;
        if (!dirty_.empty()) after_durable([] {});
      });
}

void Conductor::settle(std::function<void()> done) {
  settle_ = true;
  after_durable(std::move(done));
}

void Conductor::on_committed(Status status) {
  if (halted_) return;
  if (!status.ok()) {
    halted_ = true;
    hooks_.fatal(std::move(status));
    return;
  }
  do {
    auto unit = std::move(in_flight_.front());
    in_flight_.pop_front();
    for (auto& effect : unit->effects) {
      if (halted_) return;
      for (const auto& action : effect.actions) hooks_.act(action);
      if (effect.durable) effect.durable();
      const Run* run = effect.changed ? run_of(effect.run_number) : nullptr;
      if (run && !effect.ended) hooks_.changed(run->state);
      auto row = effect.ended ? ended_by_number_.find(effect.run_number) : ended_by_number_.end();
      if (row != ended_by_number_.end()) {
        hooks_.ended(*row->second);
        if (run) forget(run->state.run_id);
      }
    }
  } while (!in_flight_.empty() && in_flight_.front()->nothing_to_write);
  drop_searchable();
  if (!pending_->effects.empty()) kick();
}

}  // namespace bp::shell
