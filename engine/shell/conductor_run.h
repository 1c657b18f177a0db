// What the conductor keeps of a run and of a commit. Inner part of conductor.h.
#pragma once
#include "engine/shell/conductor.h"

namespace bp::shell {

struct Conductor::Run {
  core::RunState state;
  uint64_t dirty_from = 0;   // first commit that the row lacks; 0: the row is up to date
  bool has_row = false;
  bool active = false;       // counted in active_
  bool snapshot_now = false; // its row goes into the very next commit
  bool started = false;      // DaemonStarted was fed in this life of the daemon
  bool suspended = false;    // the core broke at its last event: waits for its quarantine
  std::string fault;         // found while replaying: quarantined at the start
  uint32_t fault_type = 0;
};

/// What waits for a commit, in the order of the events.
struct Effect {
  uint64_t run_number = 0;
  std::vector<core::Action> actions;
  std::function<void()> durable;
  bool changed = false;
  bool ended = false;
};

struct Conductor::Unit {
  storage::Commit commit;
  std::vector<Effect> effects;
  bool nothing_to_write = false;
};

}  // namespace bp::shell
