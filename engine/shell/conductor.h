// Conductor: the single writer. Applies events to runs through the core, gathers what is to be
// journalled into one commit, and only when that is durable lets actions and answers out. While a
// commit is under way, what else arrives is gathered into the next one (group commit); a full one
// follows the first at once (two in flight).
//
// An entry of the log is all that an event writes. Rows of live runs are snapshots, put when a run
// has been dirty for kSnapshotMs, so that a start replays a short tail only. An ended run is kept as
// its summary until the journal can find it.
//
// A fault inside the core quarantines the run. An error of the journal ends everything: `fatal` is
// called once, nothing is applied or done after it. Thread: the executor's.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/core/core.h"
#include "engine/shell/fault_mark.h"
#include "engine/shell/run_timers.h"
#include "engine/shell/world.h"

namespace bp::shell {

/// Rides in the commit of an event.
struct Extra {
  std::vector<storage::Commit::SecretRow> secrets;
  std::map<std::string, std::string> meta, blobs;
  std::vector<std::string> drop_meta;
};

class Conductor {
 public:
  static constexpr int64_t kSnapshotMs = 1'000;

  struct Hooks {
    /// All three once the event is durable, in this order, events in theirs.
    std::function<void(const core::Action&)> act;
    std::function<void(const core::RunState&)> changed;
    std::function<void(const storage::EndedRow&)> ended;
    std::function<void(Status)> fatal;
    /// Whether SHARED stages may start in the event that makes them runnable.
    std::function<bool()> may_dispatch;
  };
  /// `mark` may be null; it outlives the conductor.
  Conductor(World& world, Hooks hooks, std::string boot_id, FaultMark* mark);
  ~Conductor();

  /// Reads the live runs and replays the tail of the log over them. Feeds no event.
  Status load();
  /// Feeds DaemonStarted to every live run, some per turn of the loop; `all` when all are durable.
  void recover(std::function<void()> all);

  /// Stamps, applies and journals `event` for a live run. `durable` runs when it is on record (also
  /// when it changed nothing). Error: the core refused it, or kNotFound.
  Status feed(const std::string& run_id, v1::Event&& event, std::function<void()> durable = {},
              Extra extra = {});
  Status feed(uint64_t run_number, v1::Event&& event, std::function<void()> durable = {},
              Extra extra = {});
  /// Id and number of the run that the next submit() begins.
  std::string next_run_id();
  uint64_t next_run_number() const { return last_run_number_ + 1; }
  /// Begins a new run under `submitted.run_id` (of next_run_id); fills in run number, incarnation,
  /// boot id. `workflow` is pinned by its hash.
  Status submit(v1::RunSubmitted&& submitted, const core::Workflow::Ptr& workflow,
                std::function<void()> durable, Extra extra);
  /// Writes secrets or meta that belong to no event.
  void write(Extra extra, std::function<void()> durable);
  /// Runs `call` when everything applied so far is durable: answers never show what may be lost.
  void after_durable(std::function<void()> call);

  core::Workflows& workflows() { return workflows_; }
  const std::map<std::string, std::string>& meta() const { return meta_; }
  const core::RunState* find(const std::string& run_id) const;
  const core::RunState* find(uint64_t run_number) const;
  /// A live run by id or name.
  const core::RunState* find_live(const std::string& id_or_name) const;
  void each_run(const std::function<void(const core::RunState&)>& call) const;
  size_t live_count() const { return runs_.size(); }
  /// Runs that somebody works on: the daemon or a stage host must act next.
  size_t active_count() const { return active_; }

  /// Who used this idempotency key: the summary of an ended run, or what a live one would leave.
  Result<std::optional<storage::EndedRow>> find_key(const std::string& key) const;
  /// An ended run by id or name. kNotFound.
  Result<storage::EndedRow> find_ended(const std::string& id_or_name) const;
  /// Newest first, the not yet searchable ones included.
  Result<std::vector<storage::EndedRow>> ended(const storage::EndedQuery& query) const;
  /// The whole run as its history says, with the number of its last commit.
  Result<core::RunState> rebuild(uint64_t run_number, uint64_t last_commit);
  /// Brings an ended run back into memory, for RetryRequested and StopRequested; it is forgotten
  /// again unless an event makes it live before `forget`.
  Status revive(const std::string& run_id);
  void forget(const std::string& run_id);
  void halt() { halted_ = true; }
  /// Puts snapshots of all dirty runs; `done` when they are durable (or nothing was dirty).
  void settle(std::function<void()> done);

  struct Counters {
    uint64_t events = 0, commits = 0, runs_ended = 0, quarantined = 0;
  };
  const Counters& counters() const { return counters_; }

 private:
  struct Run;
  struct Unit;
  struct Dirty {
    uint64_t run_number, first_commit;
    int64_t since_boot_ms;
  };
  Status load_rows(const storage::Recovered& recovered);
  Status replay(const storage::LogRecord& record);
  Status replay(const storage::Entry& entry, uint64_t commit);
  void recover_some();
  void start_run(Run& run);
  Run* run_of(const std::string& run_id) const;
  Run* run_of(uint64_t run_number) const;
  Status apply(Run& run, v1::Event&& event, std::function<void()> durable, Extra extra);
  Result<core::Outcome> apply_guarded(core::RunState& state, v1::Event&& event);
  void journal(Run& run, core::Outcome& outcome);
  void end(Run& run);
  void set_active(Run& run, storage::Actor actor);
  void quarantine(uint64_t run_number, const std::string& reason, uint32_t event_type);
  void add(Extra&& extra);
  void stamp(v1::Event& event) const;
  void arm(const Run& run);
  void timer_due(uint64_t run_number);
  void kick();
  void commit();
  void add_snapshots(storage::Commit& commit, bool all);
  void snapshot_soon();
  void on_committed(Status status);
  void drop_searchable();
  uint64_t pending_number() const { return last_number_ + 1; }

  World& world_;
  Hooks hooks_;
  const std::string boot_id_;
  FaultMark* mark_;
  core::Workflows workflows_;
  RunTimers timers_;
  std::unordered_map<uint64_t, std::unique_ptr<Run>> runs_;
  std::unordered_map<std::string, uint64_t> names_;     // of live runs
  std::unordered_map<std::string, uint64_t> keys_;      // of live runs
  std::unordered_map<std::string, uint64_t> other_ids_; // live runs whose id does not tell their number
  std::deque<storage::EndedRow> ended_;                 // not yet searchable, in order of commits
  std::unordered_map<uint64_t, const storage::EndedRow*> ended_by_number_;
  std::unordered_map<std::string, uint64_t> ended_keys_;
  std::deque<Dirty> dirty_;                             // in order of first_commit
  std::unordered_set<std::string> pinned_;              // workflows whose blob was put
  std::unique_ptr<Unit> pending_;
  std::deque<std::unique_ptr<Unit>> in_flight_;
  std::map<std::string, std::string> meta_;
  std::vector<uint64_t> to_start_;                      // runs that recover() has not reached
  std::function<void()> all_started_;
  uint64_t last_number_ = 0, last_run_number_ = 0, incarnation_ = 1;
  Executor::TimerId snapshot_timer_ = 0;
  bool halted_ = false, kicked_ = false, settle_ = false;
  Counters counters_;
  size_t active_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

/// "r123-..." -> 123; 0 for ids that do not tell.
uint64_t number_of_id(const std::string& run_id);

}  // namespace bp::shell
