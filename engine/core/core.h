// The core: decides everything about one run and does nothing. Pure: no clock, no I/O, no
// randomness (jitter comes from a hash of run, stage and attempt); time is what the event says.
//
//   apply(state, event) -> (what to journal, actions, timers)
//
// The conductor applies, commits the entry, and only when the commit is durable carries out the
// actions. Life of an attempt:
//   OWN     stage QUEUED, new epoch      -> DispatchAttempt    shell: choose a host id,
//           AttemptDispatched: RUNNING   -> StartHost          shell: spawn it,
//           AttemptHostStarted: its identity is on record -> SendAttempt  shell: RunAttempt,
//           once it said hello AttemptCheckpointed, AttemptBecameReady, AttemptEnded (-> AckResult),
//           AttemptLost, TimerFired
//   SHARED  in the event that makes it runnable: RUNNING -> SendShared, when the event carries
//           may_dispatch and neither stage nor run has limit keys; else QUEUED -> DispatchAttempt,
//           AttemptDispatched -> SendShared
// A new attempt of a stage is dispatched only when the older one is proven dead (AttemptEnded, or
// AttemptLost), and only while no attempt of a later stage lives.
//
// Thread: the conductor only. A state belongs to the conductor.
#pragma once
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/actions.h"
#include "storage/journal_types.h"

namespace bp::core {

/// Stamped into events by who makes them; changed behaviour branches on it. 2: SHARED, maps,
/// bindings, pause, signals, forks, a retry from the failed stage.
inline constexpr uint32_t kCoreVersion = 2;
inline constexpr int64_t kCancelGraceMs = 10'000;  // a told attempt has this long until it is killed
inline constexpr int64_t kHungGraceMs = 2'000;     // the same for one that no longer beats
inline constexpr int64_t kKillAgainMs = 5'000;     // a kill not confirmed is repeated
inline constexpr int64_t kRewindDelayMs = 100;     // doubled per rewind without ready in between
inline constexpr int64_t kRewindDelayMaxMs = 5'000;
inline constexpr uint32_t kRewindsMax = 20;        // without ready in between; then it fails
inline constexpr int64_t kStableReadyMs = 1'000;   // ready for less: the next attempt waits a little
inline constexpr size_t kSignalsMax = 64;          // kept of a run, not yet taken; more: refused
inline constexpr size_t kSignalNamesMax = 64;      // different names in a run's life
inline constexpr size_t kRequestKeysMax = 32;      // commands remembered of a run
/// Where the definition sets no time limit, Next says this long after the last event: what is not
/// through by then is reported as overdue, not ended.
inline constexpr int64_t kOverdueMs = 24 * 3600 * 1000;

/// A programmer error inside apply(). The state is as it was before the event: quarantine the run.
class Fault : public std::exception {
 public:
  explicit Fault(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

struct Outcome {
  /// Not OK: the request cannot be granted in this state (kConflict, kInvalidArgument,
  /// kUnavailable). No change; there may be actions (an ack).
  Status accepted;
  /// False: the event was a repetition or stale; nothing to journal, but there may be actions.
  bool changed = false;
  /// What to journal: the event itself (moved), or EndedWasLate in its place. Empty if !changed.
  v1::Event record;
  std::vector<Action> actions;
  std::vector<Timer> put_timers;  // replace those of the same (key, kind)
  std::vector<TimerName> drop_timers;  // before put_timers
  bool ended = false;         // the run ended with this event
  bool revived = false;       // an ended run lives again
  bool drop_secrets = false;  // nobody needs its tokens and keys any more
};

/// Applies one event to `state` (in place) and says what to journal and to do. Events must carry
/// core_version, wall_ms and boot_ms; RunSubmitted also incarnation and boot_id. Repeated events
/// change nothing. The shell arms put_timers and feeds timer_event() when one is due; HEARTBEAT and
/// PROGRESS timers are its own. RetryRequested (StopRequested on SUCCEEDED) make an ended run live
/// again: before, the caller makes sure that no other live run has its name. Throws Fault.
Outcome apply(RunState& state, v1::Event&& event, Workflows& workflows);
Outcome apply(RunState& state, const v1::Event& event, Workflows& workflows);

/// Deterministic bytes of an event: the body of its entry.
std::string encode_event(const v1::Event& event);
/// The whole run, without its workflow's definition (only the hash). decode: kJournal when it does
/// not parse or contradicts itself, kNotFound when nobody has the workflow.
std::string encode_run(const RunState& state);
Result<RunState> decode_run(std::string_view bytes, Workflows& workflows);
/// Who must act next, by when; why, in one sentence for people.
storage::Next next_of(const RunState& state);
std::string why(const RunState& state);
storage::EndedRow ended_row(const RunState& state);
/// One line per violated invariant; empty when sound.
std::vector<std::string> broken_invariants(const RunState& state);

/// "run/stage/map_index/generation": equal for all attempts of a stage.
std::string effect_key(const RunState& state, StageKey key);
/// The wait before a retry after `failures` failures in a row (1 = the first), jitter included.
int64_t retry_delay_ms(const v1::RetryPolicy& policy, const RunState& state, StageKey key,
                       uint32_t failures);

/// An input that lies beside the log: the shell puts the blob's bytes in.
struct PayloadRef {
  std::string input;
  std::string hash;
};
/// Everything a stage host needs but the secrets, the daemon's own options and the blobs named in
/// `payloads`, which the shell adds.
v1::RunAttempt run_attempt_message(const RunState& state, StageKey key,
                                   std::vector<PayloadRef>* payloads);
v1::RunAttempt run_attempt_message(const RunState& state, StageKey key);  // no blobs: checked
Attempt current_attempt(const RunState& state, StageKey key);
v1::Event timer_event(const RunState& state, const Timer& timer);
/// What a fork of `state` at `from_stage` takes over (ForkOrigin of its RunSubmitted). The caller
/// feeds HandleLent for every taken handle to its lender in the same commit, before RunSubmitted.
/// kInvalidArgument: no such stage; kConflict: a stage before it is not through.
Result<v1::ForkOrigin> fork_origin(const RunState& state, const std::string& from_stage,
                                   const Workflow& onto);
/// Hash of a boot id as RunState::boot holds it.
uint64_t boot_hash(std::string_view boot_id);

}  // namespace bp::core
