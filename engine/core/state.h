// RunState: one run, whole, in memory. Written by the core only; everybody else reads.
// About 1.2 KB for a waiting run of six stages: what most runs never have lies in boxes.
#pragma once
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bp/v1/journal.pb.h"
#include "bp/v1/stage.pb.h"
#include "bp/v1/state.pb.h"
#include "engine/base/epoch.h"
#include "engine/core/value.h"
#include "engine/core/workflow.h"

namespace bp::core {

/// Names an instance of a stage within its run. Timers of the run itself carry kRunItself.
struct StageKey {
  StageIndex stage = 0;
  uint32_t map_index = 0;
  auto operator<=>(const StageKey&) const = default;
};
inline constexpr StageKey kRunItself{0xffff, 0};

struct Timer {
  StageKey key;
  v1::TimerKind kind = v1::TIMER_KIND_UNSPECIFIED;
  uint64_t epoch_counter = 0;  // of the attempt that it was set for
  int64_t due_boot_ms = 0;     // while frozen (paused run): 0, and `left_ms` counts
  int64_t left_ms = 0;         // when it was armed or frozen
  bool frozen = false;
};
struct TimerName {
  StageKey key;
  v1::TimerKind kind = v1::TIMER_KIND_UNSPECIFIED;
};

struct StageInstance {
  struct Host {
    std::string id;
    v1::ProcessIdentity process;  // pid 0 while unknown
  };
  struct Rare {
    std::string handle;      // kept until overwritten or confirmed gone
    std::string checkpoint;
    std::vector<std::string> survivors;
    std::vector<std::string> borrowers;  // run ids that use its handle
    std::string lender;                  // its handle is borrowed of that run
    uint32_t quick_losses = 0;           // losses soon after ready, in a row
    int64_t ready_boot_ms = 0;
    uint64_t last_late_counter = 0;      // newest fenced result that was recorded
  };
  StageKey key;
  v1::StageState state = v1::STAGE_STATE_PENDING;
  v1::AttemptMode mode = v1::ATTEMPT_MODE_APPLY;
  v1::AfterCancel after_cancel = v1::AFTER_CANCEL_UNSPECIFIED;
  bool dispatched_once = false;  // of this generation: something may exist outside
  bool in_own = false;           // its shared host died: runs alone from now on
  bool expanded = false;         // mapped: its list is known; else it stands for all of them
  bool surplus = false;          // mapped: not in the list; kept for its teardown only
  uint32_t attempt = 0;          // number of the current or last attempt since the last fresh start
  uint32_t attempts_total = 0;   // of the run, all generations
  uint32_t generation = 1;
  uint32_t failures = 0;         // failed attempts in a row: what the retry policy counts
  Epoch epoch;                   // of the current or last attempt
  uint64_t last_ended_counter = 0;  // newest attempt whose end was recorded
  int64_t started_wall_ms = 0, ended_wall_ms = 0;
  uint64_t saved_at = 0;         // of apply() alone: undo
  ValuesPtr outputs;
  ValuesPtr item;                // mapped: input "item"
  Box<v1::ErrorInfo> failure;    // of the last failed attempt
  Box<Host> host;                // of a live attempt in OWN
  Box<Rare> rare;

  const Rare& rarely() const;    // defaults when there is none
  const v1::ErrorInfo* error() const { return failure.get(); }  // null: none
  const std::string& handle() const { return rarely().handle; }
  const std::string& checkpoint() const { return rarely().checkpoint; }
  const std::string& host_id() const;          // empty: none
  const v1::ProcessIdentity* process() const;  // null while unknown
};

/// Plugins that a run pins, by name; shared by all runs that pin the same.
struct Pins {
  std::vector<std::pair<std::string, uint32_t>> versions;    // what "whatever is installed" meant
  std::vector<std::pair<std::string, std::string>> hashes;   // content hash of each plugin file
};

/// What was submitted; shared, changed only by replacing it (migration).
struct Submitted {
  std::string idempotency_key, submitter, schedule;
  Values inputs;
  std::vector<std::pair<std::string, std::string>> options;
  std::vector<std::string> limit_keys;
  std::string forked_of, forked_from_stage;
};
struct Signal {
  std::string name, payload;
};

/// Empty (run_id "") before RunSubmitted.
struct RunState {
  struct Rare {
    Box<v1::ErrorInfo> error;            // the one that ended it, kept through compensation
    std::vector<std::string> survivors;  // what teardown could not confirm gone
    std::string ended_by, end_reason;
    std::string paused_by, pause_reason;
    std::string quarantine_reason;
    std::vector<Signal> signals;       // not yet taken, in order
    std::vector<Signal> last_signals;  // the last one of each name, taken or not
    std::vector<uint64_t> request_keys;  // of the last commands (hashes), oldest first
  };
  /// Plain numbers: apply() keeps a copy to undo a Fault.
  struct Numbers {
    v1::RunState state = v1::RUN_STATE_UNSPECIFIED;    // what people see
    v1::RunState phase = v1::RUN_STATE_UNSPECIFIED;    // the same beneath PAUSED and QUARANTINED
    v1::RunState outcome = v1::RUN_STATE_UNSPECIFIED;  // while STOPPING: what comes after
    bool paused = false, quarantined = false, teardown_needs_human = false;
    int32_t priority = 0;       // higher first
    uint32_t generation = 1;    // grows with each retry
    uint32_t rewinds_total = 0, rewinds_since_ready = 0;
    uint64_t incarnation = 0;   // of the journal, for new epochs
    uint64_t epoch_counter = 0;
    uint64_t boot = 0;          // hash of the boot id that timers are armed on
    uint64_t run_seq = 0;       // of the last event
    int64_t created_wall_ms = 0, updated_wall_ms = 0, updated_boot_ms = 0;
    int64_t first_serving_wall_ms = 0;
  };
  std::string run_id;
  uint64_t run_number = 0;
  uint64_t last_commit = 0;     // where the last event is; kept by the conductor
  uint64_t applied = 0;         // calls of apply(); not part of the snapshot
  std::string name;
  Numbers n;
  Workflow::Ptr workflow;
  std::shared_ptr<const Submitted> submitted;
  std::shared_ptr<const Pins> pins;
  std::vector<std::pair<std::string, std::string>> labels;  // sorted by name
  std::vector<StageInstance> stages;  // in the order of the definition, then by map index
  std::vector<Timer> timers;
  Box<Rare> rare;

  v1::RunState state() const { return n.state; }
  const Rare& rarely() const;  // defaults when there is none
  const StageInstance* find(StageKey key) const;
  const StageInstance* find(std::string_view stage, uint32_t map_index = 0) const;
  const v1::StageDefinition& definition(StageKey key) const { return workflow->stage(key.stage); }
  const std::string& stage_name(StageKey key) const;  // "" of kRunItself
  const Timer* timer(StageKey key, v1::TimerKind kind) const;
  const v1::ErrorInfo* error() const { return rarely().error.get(); }  // null: none
  const Value* input(std::string_view name) const;                     // null: none
  const std::string* option(std::string_view name) const;              // null: none
};

bool is_ended(v1::RunState state);  // SUCCEEDED, STOPPED, CANCELLED, FAILED
/// An attempt lives (RUNNING, READY, CANCELLING).
bool has_live_attempt(const StageInstance& stage);

}  // namespace bp::core
