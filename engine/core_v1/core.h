// The core: decides everything about one run and does nothing. Pure: no clock, no I/O, no
// randomness (jitter comes from a hash of run, stage and attempt); time is what the event says.
//
//   apply(state, event) -> (row deltas, actions)
//
// The conductor applies, commits the batch, and only when the commit is durable carries out the
// actions. Every action follows from the state, so a lost one is found again: DaemonStarted,
// applied to each live run at start, emits them anew. The rows are thus the outbox of attempts.
//
// Thread: the conductor only. A state belongs to the conductor.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "bp/v1/journal.pb.h"
#include "bp/v1/stage.pb.h"
#include "bp/v1/state_v1.pb.h"
#include "engine/base/result.h"
#include "storage/store.h"

namespace bp::core_v1 {

inline constexpr uint32_t kCoreVersion =
    1;  // stamped into events; changed behaviour branches on it
inline constexpr int64_t kCancelGraceMs =
    10'000;                                     // a told attempt has this long before it is killed
inline constexpr int64_t kHungGraceMs = 2'000;  // the same for one that no longer beats
inline constexpr int64_t kKillAgainMs = 5'000;  // a kill not confirmed is repeated
inline constexpr int64_t kRewindDelayMs = 100;  // doubled per rewind without ready in between
inline constexpr int64_t kRewindDelayMaxMs = 5'000;
inline constexpr uint32_t kRewindsMax = 20;  // without ready in between; then it fails for good
inline constexpr int64_t kStableReadyMs = 1'000;  // ready for less: the next attempt waits a little

using StageKey = std::pair<std::string, uint32_t>;  // stage, map_index
using TimerKey = std::pair<StageKey, int>;          // v1::TimerKind

struct StageInstance {
  v1::StageState state = v1::STAGE_STATE_PENDING;
  v1::StageBody body;
};

/// One run, whole. Empty (run_id "") before RunSubmitted.
struct RunState {
  std::string run_id;
  uint64_t run_number = 0;
  std::string name;
  bool live = false;  // false when ended; NEEDS_HUMAN stays live
  v1::RunState state = v1::RUN_STATE_UNSPECIFIED;
  uint64_t epoch_counter = 0;
  int64_t created_wall_ms = 0;
  int64_t updated_wall_ms = 0;
  std::string idempotency_key;
  v1::RunBody body;
  std::map<StageKey, StageInstance> stages;
  std::map<TimerKey, storage::TimerRow> timers;
};

/// Names one attempt in actions.
struct Attempt {
  std::string run_id;
  std::string stage;
  uint32_t map_index = 0;
  uint32_t attempt = 0;
  v1::Epoch epoch;
  std::string host_id;       // empty in DispatchAttempt
  v1::ProcessIdentity host;  // pid 0 while unknown
};

/// Choose a host id for it and feed AttemptDispatched with this attempt's number and epoch.
struct DispatchAttempt {
  Attempt ref;
  v1::AttemptMode mode;
  std::string plugin;
  uint32_t plugin_version;
};
/// Spawn the stage host of a dispatched attempt and feed AttemptHostStarted (or AttemptLost).
struct StartHost {
  Attempt ref;
  v1::AttemptMode mode;
  std::string plugin;
  uint32_t plugin_version;
};
/// Send run_attempt_message() to the host as soon as it has said hello (again after it reconnects).
struct SendAttempt {
  Attempt ref;
};
/// After a start of the daemon: find the host. Alive: wait for its hello, go on. Proven dead, or
/// never started (no identity, and no process with that host id): feed AttemptLost.
struct ReattachAttempt {
  Attempt ref;
};
/// Tell the attempt to end; at the latest at the deadline a TimerFired(CANCEL) leads to KillHost.
struct CancelAttempt {
  Attempt ref;
  std::string reason;
  int64_t deadline_boot_ms;
  int64_t grace_ms;
};
/// SIGKILL the host, wait for proof of death, feed AttemptLost.
struct KillHost {
  Attempt ref;
  std::string reason;
};
/// The result is on record, or fenced: send ResultAck; the host then exits. Kill it if it does not.
struct AckResult {
  Attempt ref;
};
/// Something that people see has changed.
struct Notify {
  std::string run_id;
};
/// The run has ended (not NEEDS_HUMAN): delete its secrets' keys in memory, forget its connections.
struct RunEnded {
  std::string run_id;
  v1::RunState state;
};

using Action = std::variant<DispatchAttempt, StartHost, SendAttempt, ReattachAttempt, CancelAttempt,
                            KillHost, AckResult, Notify, RunEnded>;

struct Outcome {
  /// Not OK: the request cannot be granted in this state (kConflict, kInvalidArgument). No change.
  Status accepted;
  /// False: the event was a repetition or stale; the batch is empty, but there may be actions (an
  /// ack).
  bool changed = false;
  /// Rows and the event itself. `events[].seq` is left 0 for the conductor; run_seq is set.
  storage::Batch batch;
  std::vector<Action> actions;
};

/// Applies one event to `state` (in place) and says what to store and what to do. Events must carry
/// wall_ms and boot_ms, RunSubmitted also incarnation and boot_id. Repeated events change nothing.
/// Timers are rows: the shell arms what it finds in batch.put_timers, disarms batch.drop_timers,
/// and feeds TimerFired with the row's epoch_counter. HEARTBEAT timers are the shell's own.
/// RetryRequested (and StopRequested on SUCCEEDED) make an ended run live again: before, the caller
/// makes sure that no other live run has its name.
Outcome apply(RunState& state, const v1::Event& event);

/// A stage list that can be run: names unique and not empty, `after` known, no cycle, rewind
/// targets reachable, policies sane. kInvalidArgument names the first fault.
Status check_workflow(const v1::WorkflowDefinition& workflow);

/// Between memory and rows. decode: kJournal when a body does not parse or names an unknown state.
Result<RunState> decode(const storage::RunRow& run, const std::vector<storage::StageRow>& stages,
                        const std::vector<storage::TimerRow>& timers);
storage::RunRow encode_run(const RunState& state);
storage::StageRow encode_stage(const RunState& state, const StageKey& key);

/// "run/stage/map_index/generation": equal for all attempts of a stage.
std::string effect_key(const RunState& state, const StageKey& key);
/// The wait before a retry after `failures` failures in a row (1 = the first), jitter included.
int64_t retry_delay_ms(const v1::RetryPolicy& policy, const RunState& state, const StageKey& key,
                       uint32_t failures);
/// Everything a stage host needs but the secrets and the daemon's own options, which the shell
/// adds.
v1::RunAttempt run_attempt_message(const RunState& state, const StageKey& key);
/// Definition of a stage; null when the workflow has none of that name.
const v1::StageDefinition* stage_definition(const RunState& state, const std::string& stage);
/// The attempt that lives now (RUNNING, READY, CANCELLING); false when there is none.
bool has_live_attempt(const StageInstance& stage);
Attempt current_attempt(const RunState& state, const StageKey& key);
/// One sentence for people: who must act next, and why.
std::string who_must_act_next(const RunState& state);
bool is_ended(v1::RunState state);  // SUCCEEDED, STOPPED, CANCELLED, FAILED

}  // namespace bp::core_v1

namespace bp::shell {
namespace core = ::bp::core_v1;  // the shell still speaks to the first form
}
